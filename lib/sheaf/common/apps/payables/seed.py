"""Invented vendors, orders, invoices and payments; the same every time."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np

from sheaf.common.apps.payables.models import (  # isort: skip
    Approver, Invoice, InvoiceLine, Payment, PurchaseOrder, PurchaseOrderLine, Vendor,
)  # fmt: skip

__all__ = ["seed"]

VENDORS = [  # name, category, terms, status
    ("Alder Paper Works", "office", "net30", "active"), ("Brightwell Freight", "freight", "net45", "active"),
    ("Cobalt Software", "software", "net30", "active"), ("Dunmore Catering", "catering", "net15", "active"),
    ("Eastgate Facilities", "facilities", "net30", "active"), ("Fennel & Rye", "catering", "net15", "active"),
    ("Granite Machine Parts", "parts", "net60", "active"), ("Harrow Office Supply", "office", "net30", "active"),
    ("Ivory Coast Freight", "freight", "net45", "active"), ("Juniper Cloud", "software", "net30", "hold"),
    ("Kestrel Logistics", "freight", "net30", "active"), ("Larkspur Cleaning", "facilities", "net15", "active"),
    ("Mistral Bearings", "parts", "net45", "active"), ("Northfield Stationers", "office", "net15", "blocked"),
    ("Orchard Lunches", "catering", "net30", "active"), ("Pinewood Tools", "parts", "net30", "active"),
    ("Quillon Systems", "software", "net60", "active"), ("Redfern Security", "facilities", "net45", "active"),
]  # fmt: skip
APPROVERS = [("Ada Lindqvist", "Finance", 50000), ("Bruno Castell", "Operations", 10000),
             ("Chidi Marwa", "IT", 15000), ("Dana Oyelaran", "Logistics", 8000), ("Elif Sarac", "Facilities", 5000)]  # fmt: skip
GOODS = {
    "office": ["Copy paper, box", "Toner cartridge", "Desk lamp", "Whiteboard"],
    "freight": ["Pallet delivery", "Container haulage", "Express parcel"],
    "software": ["Seat licence", "Support plan", "Storage add-on"],
    "catering": ["Lunch platters", "Coffee service", "Fruit baskets"],
    "facilities": ["Window cleaning", "Door repair", "Night patrol"],
    "parts": ["Ball bearing 6204", "Drive belt", "Hydraulic hose", "Gasket set"],
}
DEPARTMENTS = ["Operations", "IT", "Logistics", "Facilities", "Finance"]
FIRST = date(2024, 1, 8)
INVOICE_STATUS = ["received", "pending", "pending", "approved", "approved", "received", "paid", "disputed"]


def seed() -> None:
    """Fills the empty tables: 18 vendors, 30 orders, 48 invoices, the payments of those paid."""
    rng = np.random.default_rng(2024_01)
    vendors = Vendor.objects.bulk_create(
        Vendor(id=i, name=name, number=f"V-{100 + i}", category=category, payment_terms=terms, status=status,
               contact_email=f"billing@{name.split()[0].lower()}.example", tax_id=f"TX-{int(rng.integers(10**6, 10**7))}")
        for i, (name, category, terms, status) in enumerate(VENDORS, 1)
    )  # fmt: skip
    approvers = Approver.objects.bulk_create(
        Approver(id=i, name=name, department=department, limit=limit)
        for i, (name, department, limit) in enumerate(APPROVERS, 1)
    )
    orders, lines = [], []
    for i in range(1, 31):
        vendor = vendors[(i * 7) % len(vendors)]
        status = ["open", "open", "received", "closed", "open", "cancelled"][i % 6]
        orders.append(PurchaseOrder(id=i, number=f"PO-{2200 + i}", vendor=vendor, status=status,
                                    department=DEPARTMENTS[i % 5], ordered_on=FIRST + timedelta(days=2 * i)))  # fmt: skip
        for k in range(1 + i % 2):
            goods = GOODS[vendor.category]
            lines.append(PurchaseOrderLine(order_id=i, description=goods[(i + k) % len(goods)],
                                           quantity=int(rng.integers(1, 40)), unit_price=_money(rng, 5, 200)))  # fmt: skip
    PurchaseOrder.objects.bulk_create(orders)
    PurchaseOrderLine.objects.bulk_create(lines)
    invoices, positions, payments = [], [], []
    for i in range(1, 49):
        vendor = vendors[(i * 5) % len(vendors)]
        received, status = FIRST + timedelta(days=i + 10), INVOICE_STATUS[i % 8]
        amount = _money(rng, 80, 4800)
        invoices.append(Invoice(
            id=i, number=f"INV-{1000 + i}", vendor=vendor, received_on=received, amount=amount, status=status,
            due_on=received + timedelta(days=int(vendor.payment_terms[3:])), cost_centre=f"CC-{10 + i % 6}",
            approver=approvers[i % 5] if status in ("approved", "paid") else None,
        ))  # fmt: skip
        goods = GOODS[vendor.category]
        positions.append(InvoiceLine(invoice_id=i, description=goods[i % len(goods)], amount=amount))
        if status == "paid":
            payments.append(Payment(invoice_id=i, amount=amount, pay_on=received + timedelta(days=12), method="transfer",
                                    status="sent", reference=f"REF-{9000 + i}"))  # fmt: skip
    Invoice.objects.bulk_create(invoices)
    InvoiceLine.objects.bulk_create(positions)
    Payment.objects.bulk_create(payments)


def _money(rng: np.random.Generator, low: int, high: int) -> Decimal:
    return Decimal(int(rng.integers(low * 100, high * 100))) / 100
