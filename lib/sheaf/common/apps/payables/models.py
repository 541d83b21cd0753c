"""Tables of accounts payable."""

from django.db import models

__all__ = ["Approver", "Invoice", "InvoiceLine", "Payment", "PurchaseOrder", "PurchaseOrderLine", "Vendor"]


class Vendor(models.Model):
    """Someone the company buys from."""

    class Category(models.TextChoices):
        OFFICE = "office", "Office supplies"
        FREIGHT = "freight", "Freight"
        SOFTWARE = "software", "Software"
        CATERING = "catering", "Catering"
        FACILITIES = "facilities", "Facilities"
        PARTS = "parts", "Machine parts"

    class Terms(models.TextChoices):
        NET15 = "net15", "Net 15"
        NET30 = "net30", "Net 30"
        NET45 = "net45", "Net 45"
        NET60 = "net60", "Net 60"

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        HOLD = "hold", "On hold"
        BLOCKED = "blocked", "Blocked"

    name = models.CharField(max_length=80, unique=True)
    number = models.CharField(max_length=12, unique=True)
    category = models.CharField(max_length=12, choices=Category)
    payment_terms = models.CharField(max_length=8, choices=Terms, default=Terms.NET30)
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    contact_email = models.EmailField()
    tax_id = models.CharField("tax ID", max_length=20)
    notes = models.TextField(blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Approver(models.Model):
    """Someone who may sign off an invoice up to a limit."""

    name = models.CharField(max_length=60, unique=True)
    department = models.CharField(max_length=40)
    limit = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class PurchaseOrder(models.Model):
    """What was ordered, before an invoice comes."""

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        RECEIVED = "received", "Goods received"
        CLOSED = "closed", "Closed"
        CANCELLED = "cancelled", "Cancelled"

    number = models.CharField(max_length=12, unique=True)
    vendor = models.ForeignKey(Vendor, models.PROTECT)
    department = models.CharField(max_length=40)
    ordered_on = models.DateField()
    status = models.CharField(max_length=10, choices=Status, default=Status.OPEN)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class PurchaseOrderLine(models.Model):
    """One article of an order."""

    order = models.ForeignKey(PurchaseOrder, models.CASCADE)
    description = models.CharField(max_length=80)
    quantity = models.PositiveIntegerField()
    unit_price = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.description


class Invoice(models.Model):
    """A vendor's bill."""

    class Status(models.TextChoices):
        RECEIVED = "received", "Received"
        PENDING = "pending", "Pending approval"
        APPROVED = "approved", "Approved"
        DISPUTED = "disputed", "Disputed"
        REJECTED = "rejected", "Rejected"
        PAID = "paid", "Paid"

    number = models.CharField(max_length=12, unique=True)
    vendor = models.ForeignKey(Vendor, models.PROTECT)
    purchase_order = models.ForeignKey(PurchaseOrder, models.PROTECT, null=True, blank=True)
    received_on = models.DateField()
    due_on = models.DateField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    status = models.CharField(max_length=10, choices=Status, default=Status.RECEIVED)
    approver = models.ForeignKey(Approver, models.SET_NULL, null=True, blank=True)
    cost_centre = models.CharField(max_length=12)
    dispute_note = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class InvoiceLine(models.Model):
    """One position of a bill."""

    invoice = models.ForeignKey(Invoice, models.CASCADE)
    description = models.CharField(max_length=80)
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.description


class Payment(models.Model):
    """Money sent, or about to be."""

    class Method(models.TextChoices):
        TRANSFER = "transfer", "Bank transfer"
        CHEQUE = "cheque", "Cheque"
        CARD = "card", "Company card"

    class Status(models.TextChoices):
        SCHEDULED = "scheduled", "Scheduled"
        SENT = "sent", "Sent"
        CANCELLED = "cancelled", "Cancelled"

    invoice = models.ForeignKey(Invoice, models.PROTECT)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    pay_on = models.DateField()
    method = models.CharField(max_length=10, choices=Method)
    status = models.CharField(max_length=10, choices=Status, default=Status.SCHEDULED)
    reference = models.CharField(max_length=30, blank=True)

    class Meta:
        ordering = ("-pay_on", "id")

    def __str__(self) -> str:
        return f"Payment of {self.invoice}"
