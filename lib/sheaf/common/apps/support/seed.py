"""Invented customers, tickets and help pages; the same every time."""

from datetime import date, timedelta

from sheaf.common.apps.support.models import Agent, Article, Customer, Reply, Ticket

__all__ = ["seed"]

AGENTS = [("Ines Almeida", "billing"), ("Joss Whitaker", "technical"), ("Kofi Darko", "technical"),
          ("Lena Bauer", "onboarding"), ("Mirek Dvorak", "billing"), ("Nadia Rahal", "onboarding")]  # fmt: skip
CUSTOMERS = [  # name, company, plan
    ("Aldo Benitez", "Foxglove Studio", "team"), ("Bridget Crane", "Harbor Dental", "business"),
    ("Cyrus Malik", "Lumen Labs", "free"), ("Daphne Okoro", "Tall Oak Books", "team"),
    ("Emil Haugen", "Fjord Cycles", "free"), ("Fiona Castel", "Castel Wines", "business"),
    ("Gideon Park", "Parkside School", "enterprise"), ("Hana Suzuki", "Origami Travel", "team"),
    ("Ivo Stanev", "Danube Freight", "free"), ("Joy Abara", "Abara Legal", "business"),
    ("Karim Saleh", "Oasis Interiors", "team"), ("Lotte Visser", "Polder Farms", "free"),
]  # fmt: skip
SUBJECTS = [
    "Cannot log in after password change", "Charged twice this month", "Export stops half way", "How do I add a colleague",
    "Invoice shows the old address", "Sync is slow since Monday", "Calendar shows wrong time zone", "Want to cancel a seat",
    "Error 503 when uploading", "Where is the mobile app",
]  # fmt: skip
ARTICLES = [  # title, category, status
    ("Changing your password", "account", "published"), ("Closing an account", "account", "draft"),
    ("Inviting colleagues", "setup", "published"), ("Reading your invoice", "billing", "draft"),
    ("Refund rules", "billing", "published"), ("Setting the time zone", "setup", "draft"),
    ("Signing in with two factors", "account", "draft"), ("Slow synchronisation", "trouble", "published"),
    ("Upload errors explained", "trouble", "draft"), ("Using the old importer", "setup", "archived"),
]  # fmt: skip
STATUS = ["new", "open", "waiting", "solved", "open", "waiting", "closed"]
PRIORITY = ["normal", "normal", "low", "high", "normal"]


def seed() -> None:
    """Fills the empty tables: 6 agents, 12 customers, 36 tickets with their first messages, 10 articles."""
    Agent.objects.bulk_create(
        Agent(id=i, name=name, team=team, on_duty=i != 5) for i, (name, team) in enumerate(AGENTS, 1)
    )
    Customer.objects.bulk_create(
        Customer(id=i, name=name, company=company, plan=plan, seats=1 + (i * 5) % 13,
                 email=f"{name.split()[0].lower()}@{company.split()[0].lower()}.example")
        for i, (name, company, plan) in enumerate(CUSTOMERS, 1)
    )  # fmt: skip
    Ticket.objects.bulk_create(
        Ticket(id=i, number=f"T-{4100 + i}", subject=SUBJECTS[i % 10], customer_id=1 + (i * 5) % 12,
               agent_id=None if STATUS[i % 7] == "new" else 1 + i % 6, status=STATUS[i % 7], priority=PRIORITY[i % 5],
               channel=["email", "chat", "phone"][i % 3], opened_on=date(2024, 2, 1) + timedelta(days=i))
        for i in range(1, 37)
    )  # fmt: skip
    Reply.objects.bulk_create(
        Reply(ticket_id=i, text=f"Hello, {SUBJECTS[i % 10].lower()}. Please help.") for i in range(1, 37)
    )
    Article.objects.bulk_create(
        Article(id=i, title=title, category=category, status=status, summary=f"All about: {title.lower()}.")
        for i, (title, category, status) in enumerate(ARTICLES, 1)
    )
