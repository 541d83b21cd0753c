"""Tables of an online shop's back office."""

from django.db import models

__all__ = ["Coupon", "Order", "OrderItem", "Product", "Refund", "Shipment", "Shopper"]


class Product(models.Model):
    """Something for sale."""

    class Category(models.TextChoices):
        KITCHEN = "kitchen", "Kitchen"
        GARDEN = "garden", "Garden"
        TOYS = "toys", "Toys"
        BATH = "bath", "Bath"
        LIGHTING = "lighting", "Lighting"

    name = models.CharField(max_length=60, unique=True)
    sku = models.CharField("SKU", max_length=10, unique=True)
    category = models.CharField(max_length=10, choices=Category)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField()
    on_sale = models.BooleanField("offered in the shop", default=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Shopper(models.Model):
    """Someone who buys."""

    name = models.CharField(max_length=60, unique=True)
    email = models.EmailField()
    city = models.CharField(max_length=40)
    newsletter = models.BooleanField(default=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What one shopper bought at once."""

    class Status(models.TextChoices):
        NEW = "new", "New"
        PAID = "paid", "Paid"
        SHIPPED = "shipped", "Shipped"
        DELIVERED = "delivered", "Delivered"
        CANCELLED = "cancelled", "Cancelled"

    number = models.CharField(max_length=10, unique=True)
    shopper = models.ForeignKey(Shopper, models.PROTECT)
    placed_on = models.DateField()
    status = models.CharField(max_length=10, choices=Status)
    street = models.CharField(max_length=80)
    city = models.CharField(max_length=40)
    gift_message = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class OrderItem(models.Model):
    """One product of an order."""

    order = models.ForeignKey(Order, models.CASCADE)
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.PositiveIntegerField()

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"


class Shipment(models.Model):
    """A parcel."""

    class Carrier(models.TextChoices):
        SWIFT = "swift", "Swift Parcel"
        GREEN = "green", "Green Bike Couriers"
        POST = "post", "National Post"

    order = models.ForeignKey(Order, models.PROTECT)
    carrier = models.CharField(max_length=8, choices=Carrier)
    tracking_number = models.CharField(max_length=20)
    sent_on = models.DateField()

    class Meta:
        ordering = ("-sent_on", "id")

    def __str__(self) -> str:
        return self.tracking_number


class Refund(models.Model):
    """Money given back."""

    class Reason(models.TextChoices):
        DAMAGED = "damaged", "Arrived damaged"
        LATE = "late", "Arrived late"
        WRONG = "wrong", "Wrong item"
        UNWANTED = "unwanted", "No longer wanted"

    order = models.ForeignKey(Order, models.PROTECT)
    reason = models.CharField(max_length=10, choices=Reason)
    amount = models.DecimalField(max_digits=8, decimal_places=2)
    comment = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"Refund of {self.order}"


class Coupon(models.Model):
    """A code that makes an order cheaper."""

    code = models.CharField(max_length=20, unique=True)
    percent_off = models.PositiveIntegerField()
    starts_on = models.DateField()
    ends_on = models.DateField()
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("code",)

    def __str__(self) -> str:
        return self.code
