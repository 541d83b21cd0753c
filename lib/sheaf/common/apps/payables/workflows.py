"""What people do in accounts payable."""

from sheaf.common.apps.goals import added, changes, id_of
from sheaf.common.apps.server import AppServer
from sheaf.common.apps.workflow import Slots, Walk, Workflow

__all__ = ["WORKFLOWS"]


def _approve(walk: Walk, slots: Slots) -> None:
    walk.enter("Invoices", "invoice", astray="Payments")
    walk.search("invoices", slots["invoice"])
    walk.tick(slots["invoice"])
    walk.apply("Send selected invoices for approval" if walk.wrong else "Mark selected invoices as approved")


def _approved(server: AppServer, slots: Slots) -> bool:
    return changes(server, "payables_invoice", "number") == {slots["invoice"]: {"status": "approved"}}


def _change_terms(walk: Walk, slots: Slots) -> None:
    walk.enter("Vendors", "vendor", astray="Purchase orders")
    walk.find("Vendors", slots["vendor"], instead="Cobalt Software")
    walk.driver.select("Payment terms:", slots["terms"])
    if walk.wrong:  # leaves without saving
        walk.driver.click("link", "Vendors")
    else:
        walk.save()


def _terms_changed(server: AppServer, slots: Slots) -> bool:
    terms = slots["terms"].replace(" ", "").lower()
    return changes(server, "payables_vendor", "name") == {slots["vendor"]: {"payment_terms": terms}}


def _schedule(walk: Walk, slots: Slots) -> None:
    others = {"Bank transfer": "Cheque", "Cheque": "Company card", "Company card": "Bank transfer"}
    walk.enter("Payments", "payment", astray="Invoices")
    walk.add("Payments", "payment")
    walk.driver.select("Invoice:", slots["invoice"])
    walk.driver.select("Method:", others[slots["method"]] if walk.wrong else slots["method"])
    walk.driver.fill("Amount:", slots["amount"])
    walk.driver.fill("Pay on:", slots["date"])
    walk.save()


def _scheduled(server: AppServer, slots: Slots) -> bool:
    method = {"Bank transfer": "transfer", "Cheque": "cheque", "Company card": "card"}[slots["method"]]
    wanted = {
        "invoice_id": id_of(server, "payables_invoice", "number", slots["invoice"]), "amount": float(slots["amount"]),
        "pay_on": slots["date"], "method": method, "status": "scheduled", "reference": "",
    }  # fmt: skip
    return added(server, "payables_payment") == [wanted]


def _dispute(walk: Walk, slots: Slots) -> None:
    walk.enter("Invoices", "invoice", astray="Vendors")
    walk.find("Invoices", slots["invoice"], instead="INV-1044")
    if not walk.wrong:  # the note alone does not make it disputed
        walk.driver.select("Status:", "Disputed")
    walk.driver.fill("Dispute note:", slots["reason"])
    walk.save()


def _disputed(server: AppServer, slots: Slots) -> bool:
    wanted = {"status": "disputed", "dispute_note": slots["reason"]}
    return changes(server, "payables_invoice", "number") == {slots["invoice"]: wanted}


CATEGORIES = {  # as the database calls it, and one vendor of it
    "Freight": ("freight", "Brightwell Freight"), "Catering": ("catering", "Dunmore Catering"),
    "Machine parts": ("parts", "Granite Machine Parts"), "Facilities": ("facilities", "Eastgate Facilities"),
}  # fmt: skip


def _hold(walk: Walk, slots: Slots) -> None:
    category, one = CATEGORIES[slots["category"]]
    walk.enter("Vendors", "vendor", astray="Invoices")
    walk.narrow(slots["category"], "vendor", f"category__exact={category}")
    if walk.wrong:
        walk.tick(one)
    else:
        walk.tick_all()
    walk.apply("Put selected vendors on hold")


def _held(server: AppServer, slots: Slots) -> bool:
    category, _ = CATEGORIES[slots["category"]]
    names = server.query("SELECT name FROM payables_vendor WHERE category = ? AND status <> 'hold'", [category], seeded=True)
    return changes(server, "payables_vendor", "name") == {row["name"]: {"status": "hold"} for row in names}


def _add_line(walk: Walk, slots: Slots) -> None:
    walk.enter("Purchase orders", "purchaseorder", astray="Approvers")
    walk.find("Purchase orders", "PO-2228" if walk.wrong else slots["order"], instead="PO-2226")
    walk.driver.fill("Description, line 2", slots["item"])
    walk.driver.fill("Quantity, line 2", slots["quantity"])
    walk.driver.fill("Unit price, line 2", slots["price"])
    walk.save()


def _line_added(server: AppServer, slots: Slots) -> bool:
    wanted = {
        "order_id": id_of(server, "payables_purchaseorder", "number", slots["order"]), "description": slots["item"],
        "quantity": int(slots["quantity"]), "unit_price": float(slots["price"]),
    }  # fmt: skip
    return added(server, "payables_purchaseorderline") == [wanted]


WORKFLOWS = (
    Workflow(
        "payables/approve_invoice", "payables", "Approve invoice {invoice} from {vendor}",
        (
            {"invoice": "INV-1025", "vendor": "Redfern Security"}, {"invoice": "INV-1009", "vendor": "Juniper Cloud"},
            {"invoice": "INV-1033", "vendor": "Dunmore Catering"}, {"invoice": "INV-1042", "vendor": "Mistral Bearings"},
        ),
        _approve, _approved,
    ),
    Workflow(
        "payables/change_payment_terms", "payables", "Change the payment terms of vendor {vendor} to {terms}",
        (
            {"vendor": "Kestrel Logistics", "terms": "Net 45"}, {"vendor": "Larkspur Cleaning", "terms": "Net 30"},
            {"vendor": "Quillon Systems", "terms": "Net 15"},
        ),
        _change_terms, _terms_changed,
    ),
    Workflow(
        "payables/schedule_payment", "payables",
        "Schedule a payment of {amount} for invoice {invoice} on {date} by {method}",
        (
            {"invoice": "INV-1011", "amount": "2590.62", "date": "2024-03-14", "method": "Bank transfer"},
            {"invoice": "INV-1036", "amount": "3225.36", "date": "2024-03-22", "method": "Cheque"},
            {"invoice": "INV-1028", "amount": "2888.47", "date": "2024-03-15", "method": "Company card"},
        ),
        _schedule, _scheduled,
    ),
    Workflow(
        "payables/dispute_invoice", "payables", 'Put invoice {invoice} in dispute with the note "{reason}"',
        (
            {"invoice": "INV-1016", "reason": "Quantity differs from the delivery note"},
            {"invoice": "INV-1026", "reason": "Work was not finished"},
            {"invoice": "INV-1040", "reason": "Licences were cancelled in January"},
        ),
        _dispute, _disputed,
    ),
    Workflow(
        "payables/hold_vendors", "payables", "Put all vendors of the category {category} on hold",
        ({"category": "Freight"}, {"category": "Catering"}, {"category": "Machine parts"}, {"category": "Facilities"}),
        _hold, _held,
    ),
    Workflow(
        "payables/add_order_line", "payables", "Add {quantity} x {item} at {price} each to purchase order {order}",
        (
            {"order": "PO-2204", "item": "Liftgate surcharge", "quantity": "2", "price": "35.50"},
            {"order": "PO-2210", "item": "Training day", "quantity": "3", "price": "640.00"},
            {"order": "PO-2216", "item": "Gutter inspection", "quantity": "1", "price": "180.25"},
        ),
        _add_line, _line_added,
    ),
)  # fmt: skip
