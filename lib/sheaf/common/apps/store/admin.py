"""The pages of the shop's back office."""

from django.contrib import admin

from sheaf.common.apps.adminsite import Lines, Records, new_site, set_on_selected
from sheaf.common.apps.store.models import Coupon, Order, OrderItem, Product, Refund, Shipment, Shopper

__all__ = ["site"]

site = new_site("store", "Linden & Loom back office")


class OrderItems(Lines):
    model = OrderItem


@admin.register(Product, site=site)
class Products(Records):
    list_display = ("name", "sku", "category", "price", "stock", "on_sale")
    list_filter = ("category", "on_sale")
    search_fields = ("name", "sku")
    actions = (
        set_on_selected("Take selected products out of the shop", "taken out of the shop", on_sale=False),
        set_on_selected("Offer selected products in the shop", "put into the shop", on_sale=True),
    )


@admin.register(Shopper, site=site)
class Shoppers(Records):
    list_display = ("name", "email", "city", "newsletter")
    list_filter = ("newsletter",)
    search_fields = ("name", "email")


@admin.register(Order, site=site)
class Orders(Records):
    list_display = ("number", "shopper", "placed_on", "city", "status")
    list_filter = ("status",)
    search_fields = ("number", "shopper__name")
    inlines = (OrderItems,)
    actions = (
        set_on_selected("Mark selected orders as shipped", "marked as shipped", status=Order.Status.SHIPPED),
        set_on_selected("Mark selected orders as delivered", "marked as delivered", status=Order.Status.DELIVERED),
        set_on_selected("Cancel selected orders", "cancelled", status=Order.Status.CANCELLED),
    )


@admin.register(Shipment, site=site)
class Shipments(Records):
    list_display = ("tracking_number", "order", "carrier", "sent_on")
    list_filter = ("carrier",)
    search_fields = ("tracking_number", "order__number")


@admin.register(Refund, site=site)
class Refunds(Records):
    list_display = ("__str__", "reason", "amount", "comment")
    list_filter = ("reason",)
    search_fields = ("order__number", "comment")


@admin.register(Coupon, site=site)
class Coupons(Records):
    list_display = ("code", "percent_off", "starts_on", "ends_on", "active")
    list_filter = ("active",)
    search_fields = ("code",)
    actions = (set_on_selected("Deactivate selected coupons", "deactivated", active=False),)
