"""The pages of accounts payable."""

from django.contrib import admin

from sheaf.common.apps.adminsite import Lines, Records, new_site, set_on_selected

from sheaf.common.apps.payables.models import (  # isort: skip
    Approver, Invoice, InvoiceLine, Payment, PurchaseOrder, PurchaseOrderLine, Vendor,
)  # fmt: skip

__all__ = ["site"]

site = new_site("payables", "Accounts payable")


class InvoiceLines(Lines):
    model = InvoiceLine


class OrderLines(Lines):
    model = PurchaseOrderLine


@admin.register(Vendor, site=site)
class Vendors(Records):
    list_display = ("name", "number", "category", "payment_terms", "status")
    list_filter = ("status", "category", "payment_terms")
    search_fields = ("name", "number")
    actions = (
        set_on_selected("Put selected vendors on hold", "put on hold", status=Vendor.Status.HOLD),
        set_on_selected("Release selected vendors", "released", status=Vendor.Status.ACTIVE),
    )


@admin.register(Approver, site=site)
class Approvers(Records):
    list_display = ("name", "department", "limit")
    search_fields = ("name", "department")


@admin.register(PurchaseOrder, site=site)
class PurchaseOrders(Records):
    list_display = ("number", "vendor", "department", "ordered_on", "status")
    list_filter = ("status", "department")
    search_fields = ("number", "vendor__name")
    inlines = (OrderLines,)
    actions = (
        set_on_selected("Mark goods of selected orders as received", "marked as received",
                        status=PurchaseOrder.Status.RECEIVED),
    )  # fmt: skip


@admin.register(Invoice, site=site)
class Invoices(Records):
    list_display = ("number", "vendor", "amount", "due_on", "status")
    list_filter = ("status", "vendor__category")
    search_fields = ("number", "vendor__name")
    inlines = (InvoiceLines,)
    actions = (
        set_on_selected("Mark selected invoices as approved", "approved", status=Invoice.Status.APPROVED),
        set_on_selected("Send selected invoices for approval", "sent for approval", status=Invoice.Status.PENDING),
        set_on_selected("Mark selected invoices as rejected", "rejected", status=Invoice.Status.REJECTED),
    )


@admin.register(Payment, site=site)
class Payments(Records):
    list_display = ("__str__", "amount", "pay_on", "method", "status")
    list_filter = ("status", "method")
    search_fields = ("invoice__number", "invoice__vendor__name", "reference")
    actions = (
        set_on_selected("Cancel selected payments", "cancelled", status=Payment.Status.CANCELLED),
        set_on_selected("Mark selected payments as sent", "marked as sent", status=Payment.Status.SENT),
    )
