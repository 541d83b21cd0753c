"""What people do at a help desk."""

from urllib.parse import quote_plus

from sheaf.common.apps.goals import added, changes, id_of
from sheaf.common.apps.server import AppServer
from sheaf.common.apps.workflow import Slots, Walk, Workflow

__all__ = ["WORKFLOWS"]


def _assign(walk: Walk, slots: Slots) -> None:
    colleague = "Lena Bauer" if slots["agent"] != "Lena Bauer" else "Kofi Darko"
    walk.enter("Tickets", "ticket", astray="Agents")
    walk.find("Tickets", slots["ticket"], instead="T-4130")
    walk.driver.select("Agent:", colleague if walk.wrong else slots["agent"])
    walk.driver.select("Priority:", slots["priority"])
    walk.save()


def _assigned(server: AppServer, slots: Slots) -> bool:
    agent = id_of(server, "support_agent", "name", slots["agent"])
    wanted = {"agent_id": agent, "priority": slots["priority"].lower()}
    return changes(server, "support_ticket", "number") == {slots["ticket"]: wanted}


def _close_waiting(walk: Walk, slots: Slots) -> None:
    walk.enter("Tickets", "ticket", astray="Customers")
    walk.search("tickets", slots["company"])
    if not walk.wrong:  # without the filter every ticket of the company is closed
        query = f"q={quote_plus(slots['company'])}&status__exact=waiting"
        walk.narrow("Waiting on customer", "ticket", query)
    walk.tick_all()
    walk.apply("Close selected tickets")


def _waiting_closed(server: AppServer, slots: Slots) -> bool:
    waiting = server.query(
        "SELECT t.number FROM support_ticket t JOIN support_customer c ON c.id = t.customer_id "
        "WHERE c.company = ? AND t.status = 'waiting'", [slots["company"]], seeded=True,
    )  # fmt: skip
    return changes(server, "support_ticket", "number") == {row["number"]: {"status": "closed"} for row in waiting}


def _reply(walk: Walk, slots: Slots) -> None:
    walk.enter("Tickets", "ticket", astray="Articles")
    walk.find("Tickets", slots["ticket"], instead="T-4131")
    walk.driver.select("Status:", "Waiting on customer")
    walk.driver.fill("Text, line 2", slots["reply"])
    if walk.wrong:  # an internal remark never reaches the customer
        walk.driver.check("Internal, line 2")
    walk.save()


def _replied(server: AppServer, slots: Slots) -> bool:
    ticket = id_of(server, "support_ticket", "number", slots["ticket"])
    return added(server, "support_reply") == [{"ticket_id": ticket, "text": slots["reply"], "internal": 0}] and changes(
        server, "support_ticket", "number"
    ) == {slots["ticket"]: {"status": "waiting"}}


def _publish(walk: Walk, slots: Slots) -> None:
    walk.enter("Articles", "article", astray="Tickets")
    walk.find("Articles", slots["title"], instead="Refund rules")
    if not walk.wrong:  # the text alone leaves it a draft
        walk.driver.select("Status:", "Published")
    walk.driver.fill("Summary:", slots["summary"])
    walk.save()


def _published(server: AppServer, slots: Slots) -> bool:
    wanted = {"status": "published", "summary": slots["summary"]}
    return changes(server, "support_article", "title") == {slots["title"]: wanted}


def _write(walk: Walk, slots: Slots) -> None:
    other = "Setup" if slots["category"] != "Setup" else "Account"
    walk.enter("Articles", "article", astray="Customers")
    walk.add("Articles", "article")
    walk.driver.fill("Title:", slots["title"])
    walk.driver.select("Category:", other if walk.wrong else slots["category"])
    walk.driver.fill("Summary:", slots["summary"])
    walk.save()


def _written(server: AppServer, slots: Slots) -> bool:
    category = {"Troubleshooting": "trouble"}.get(slots["category"], slots["category"].lower())
    wanted = {"title": slots["title"], "category": category, "status": "draft", "summary": slots["summary"]}
    return added(server, "support_article") == [wanted]


def _upgrade(walk: Walk, slots: Slots) -> None:
    walk.enter("Customers", "customer", astray="Tickets")
    walk.find("Customers", slots["customer"], instead="Gideon Park")
    walk.driver.select("Plan:", slots["plan"])
    walk.driver.fill("Seats:", slots["seats"])
    if walk.wrong:  # leaves without saving
        walk.driver.click("link", "Customers")
    else:
        walk.save()


def _upgraded(server: AppServer, slots: Slots) -> bool:
    wanted = {"plan": slots["plan"].lower(), "seats": int(slots["seats"])}
    return changes(server, "support_customer", "name") == {slots["customer"]: wanted}


WORKFLOWS = (
    Workflow(
        "support/assign_ticket", "support", "Assign ticket {ticket} to {agent} with priority {priority}",
        (
            {"ticket": "T-4121", "agent": "Ines Almeida", "priority": "High"},
            {"ticket": "T-4128", "agent": "Kofi Darko", "priority": "Urgent"},
            {"ticket": "T-4114", "agent": "Mirek Dvorak", "priority": "Low"},
        ),
        _assign, _assigned,
    ),
    Workflow(
        "support/reply_ticket", "support", 'Answer ticket {ticket} with "{reply}" and set it to waiting on the customer',
        (
            {"ticket": "T-4125", "reply": "Could you send us the time of the last sync?"},
            {"ticket": "T-4122", "reply": "Which browser do you use for the export?"},
            {"ticket": "T-4118", "reply": "How large is the file you are uploading?"},
        ),
        _reply, _replied,
    ),
    Workflow(
        "support/close_waiting", "support", "Close all tickets of {company} that wait for the customer",
        ({"company": "Oasis Interiors"}, {"company": "Harbor Dental"}, {"company": "Abara Legal"}),
        _close_waiting, _waiting_closed,
    ),
    Workflow(
        "support/publish_article", "support", 'Publish the help article "{title}" with the summary "{summary}"',
        (
            {"title": "Reading your invoice", "summary": "What each line of the bill means"},
            {"title": "Upload errors explained", "summary": "What the numbers in error messages say"},
            {"title": "Setting the time zone", "summary": "Times shown as on your own clock"},
        ),
        _publish, _published,
    ),
    Workflow(
        "support/write_article", "support", 'Start a help article "{title}" in {category}, summary "{summary}"',
        (
            {"title": "Exporting your data", "category": "Account", "summary": "All of your files in one archive"},
            {"title": "Paying by direct debit", "category": "Billing", "summary": "How to hand in a mandate"},
            {"title": "Export stops half way", "category": "Troubleshooting", "summary": "Three things to try first"},
        ),
        _write, _written,
    ),
    Workflow(
        "support/upgrade_customer", "support", "Move customer {customer} to the {plan} plan with {seats} seats",
        (
            {"customer": "Emil Haugen", "plan": "Team", "seats": "15"},
            {"customer": "Daphne Okoro", "plan": "Business", "seats": "24"},
            {"customer": "Ivo Stanev", "plan": "Enterprise", "seats": "60"},
        ),
        _upgrade, _upgraded,
    ),
)  # fmt: skip
