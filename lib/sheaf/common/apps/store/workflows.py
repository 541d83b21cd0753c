"""What people do in a shop's back office."""

from sheaf.common.apps.goals import added, changes, id_of
from sheaf.common.apps.server import AppServer
from sheaf.common.apps.workflow import Slots, Walk, Workflow

__all__ = ["WORKFLOWS"]

REASONS = {"Arrived damaged": "damaged", "Arrived late": "late", "Wrong item": "wrong"}


def _refund(walk: Walk, slots: Slots) -> None:
    walk.enter("Refunds", "refund", astray="Shipments")
    walk.add("Refunds", "refund")
    walk.driver.select("Order:", "S-7001" if walk.wrong else slots["order"])
    walk.driver.select("Reason:", slots["reason"])
    walk.driver.fill("Amount:", slots["amount"])
    walk.save()


def _refunded(server: AppServer, slots: Slots) -> bool:
    order = id_of(server, "store_order", "number", slots["order"])
    wanted = {"order_id": order, "reason": REASONS[slots["reason"]], "amount": float(slots["amount"]), "comment": ""}
    return added(server, "store_refund") == [wanted]


def _restock(walk: Walk, slots: Slots) -> None:
    walk.enter("Products", "product", astray="Orders")
    walk.find("Products", slots["product"], instead="Copper kettle")
    walk.driver.fill("Price:", slots["price"])
    if not walk.wrong:  # only the price is looked after
        walk.driver.fill("Stock:", slots["stock"])
    walk.save()


def _restocked(server: AppServer, slots: Slots) -> bool:
    wanted = {"price": float(slots["price"]), "stock": int(slots["stock"])}
    return changes(server, "store_product", "name") == {slots["product"]: wanted}


def _correct_address(walk: Walk, slots: Slots) -> None:
    walk.enter("Orders", "order", astray="Shoppers")
    walk.find("Orders", "S-7022" if walk.wrong else slots["order"], instead="S-7029")
    walk.driver.fill("Street:", slots["street"])
    walk.driver.fill("City:", slots["city"])
    walk.save()


def _address_corrected(server: AppServer, slots: Slots) -> bool:
    wanted = {"street": slots["street"], "city": slots["city"]}
    return changes(server, "store_order", "number") == {slots["order"]: wanted}


def _retire(walk: Walk, slots: Slots) -> None:
    walk.enter("Products", "product", astray="Coupons")
    walk.narrow(slots["category"], "product", f"category__exact={slots['category'].lower()}")
    walk.tick_all()
    if walk.wrong:  # chosen, never run
        walk.driver.select("Action", "Take selected products out of the shop")
    else:
        walk.apply("Take selected products out of the shop")


def _retired(server: AppServer, slots: Slots) -> bool:
    own = server.query("SELECT name FROM store_product WHERE category = ?", [slots["category"].lower()], seeded=True)
    return changes(server, "store_product", "name") == {row["name"]: {"on_sale": 0} for row in own}


def _create_coupon(walk: Walk, slots: Slots) -> None:
    walk.enter("Coupons", "coupon", astray="Products")
    walk.add("Coupons", "coupon")
    walk.driver.fill("Code:", slots["code"])
    walk.driver.fill("Percent off:", slots["percent"])
    walk.driver.fill("Starts on:", slots["start"])
    walk.driver.fill("Ends on:", slots["start"] if walk.wrong else slots["end"])
    walk.save()


def _coupon_created(server: AppServer, slots: Slots) -> bool:
    wanted = {
        "code": slots["code"], "percent_off": int(slots["percent"]), "starts_on": slots["start"], "ends_on": slots["end"],
        "active": 1,
    }  # fmt: skip
    return added(server, "store_coupon") == [wanted]


def _delete_coupon(walk: Walk, slots: Slots) -> None:
    walk.enter("Coupons", "coupon", astray="Refunds")
    walk.find("Coupons", slots["code"], instead="BLOOM15")
    if walk.wrong:  # made inactive, still there
        walk.driver.check("Active", on=False)
        walk.save()
    else:
        walk.driver.click("link", "Delete")
        walk.driver.click("button", "Yes, I’m sure")


def _coupon_deleted(server: AppServer, slots: Slots) -> bool:
    return changes(server, "store_coupon", "code") == {slots["code"]: None}


WORKFLOWS = (
    Workflow(
        "store/restock_product", "store", "Set {product} to {stock} in stock and a price of {price}",
        (
            {"product": "Zinc table lamp", "stock": "40", "price": "49.90"},
            {"product": "Tin robot", "stock": "65", "price": "59.00"},
            {"product": "Ash cutting board", "stock": "120", "price": "54.50"},
        ),
        _restock, _restocked,
    ),
    Workflow(
        "store/delete_coupon", "store", "Delete the coupon {code}",
        ({"code": "OPENING25"}, {"code": "WINTER10"}, {"code": "AUTUMN10"}),
        _delete_coupon, _coupon_deleted,
    ),
    Workflow(
        "store/refund_order", "store", 'Refund {amount} for order {order}, reason "{reason}"',
        (
            {"order": "S-7004", "amount": "18.40", "reason": "Arrived damaged"},
            {"order": "S-7011", "amount": "9.95", "reason": "Arrived late"},
            {"order": "S-7025", "amount": "32.00", "reason": "Wrong item"},
        ),
        _refund, _refunded,
    ),
    Workflow(
        "store/create_coupon", "store", "Create coupon {code}: {percent} percent off from {start} to {end}",
        (
            {"code": "SPRING12", "percent": "12", "start": "2024-03-20", "end": "2024-04-20"},
            {"code": "GARDEN30", "percent": "30", "start": "2024-05-01", "end": "2024-05-14"},
            {"code": "WELCOME8", "percent": "8", "start": "2024-03-01", "end": "2024-12-31"},
        ),
        _create_coupon, _coupon_created,
    ),
    Workflow(
        "store/correct_address", "store", "Change the delivery address of order {order} to {street}, {city}",
        (
            {"order": "S-7017", "street": "4 Lime Walk", "city": "Linz"},
            {"order": "S-7026", "street": "81 Quay Side", "city": "Dundee"},
            {"order": "S-7031", "street": "15 Birch Court", "city": "Tallinn"},
        ),
        _correct_address, _address_corrected,
    ),
    Workflow(
        "store/retire_category", "store", "Take all products of the category {category} out of the shop",
        ({"category": "Garden"}, {"category": "Toys"}, {"category": "Lighting"}, {"category": "Bath"}),
        _retire, _retired,
    ),
)  # fmt: skip
