"""Tables of a help desk."""

from django.db import models

__all__ = ["Agent", "Article", "Customer", "Reply", "Ticket"]


class Agent(models.Model):
    """Someone who answers tickets."""

    class Team(models.TextChoices):
        BILLING = "billing", "Billing team"
        TECHNICAL = "technical", "Technical team"
        ONBOARDING = "onboarding", "Onboarding team"

    name = models.CharField(max_length=60, unique=True)
    team = models.CharField(max_length=12, choices=Team)
    on_duty = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Customer(models.Model):
    """Someone who asks."""

    class Plan(models.TextChoices):
        FREE = "free", "Free"
        TEAM = "team", "Team"
        BUSINESS = "business", "Business"
        ENTERPRISE = "enterprise", "Enterprise"

    name = models.CharField(max_length=60, unique=True)
    company = models.CharField(max_length=60)
    email = models.EmailField()
    plan = models.CharField(max_length=12, choices=Plan)
    seats = models.PositiveIntegerField(default=1)
    remark = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Ticket(models.Model):
    """A question or a complaint, until it is closed."""

    class Status(models.TextChoices):
        NEW = "new", "New"
        OPEN = "open", "Open"
        WAITING = "waiting", "Waiting on customer"
        SOLVED = "solved", "Solved"
        CLOSED = "closed", "Closed"

    class Priority(models.TextChoices):
        LOW = "low", "Low"
        NORMAL = "normal", "Normal"
        HIGH = "high", "High"
        URGENT = "urgent", "Urgent"

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        CHAT = "chat", "Chat"
        PHONE = "phone", "Phone"

    number = models.CharField(max_length=10, unique=True)
    subject = models.CharField(max_length=100)
    customer = models.ForeignKey(Customer, models.PROTECT)
    agent = models.ForeignKey(Agent, models.SET_NULL, null=True, blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.NEW)
    priority = models.CharField(max_length=8, choices=Priority, default=Priority.NORMAL)
    channel = models.CharField(max_length=8, choices=Channel)
    opened_on = models.DateField()

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class Reply(models.Model):
    """One message of a ticket's conversation."""

    ticket = models.ForeignKey(Ticket, models.CASCADE)
    text = models.CharField(max_length=300)
    internal = models.BooleanField(default=False)

    class Meta:
        ordering = ("id",)
        verbose_name_plural = "replies"

    def __str__(self) -> str:
        return f"Reply {self.pk or ''}".strip()


class Article(models.Model):
    """A page of the help centre."""

    class Category(models.TextChoices):
        ACCOUNT = "account", "Account"
        BILLING = "billing", "Billing"
        SETUP = "setup", "Setup"
        TROUBLE = "trouble", "Troubleshooting"

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        PUBLISHED = "published", "Published"
        ARCHIVED = "archived", "Archived"

    title = models.CharField(max_length=100, unique=True)
    category = models.CharField(max_length=10, choices=Category)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    summary = models.CharField(max_length=200)

    class Meta:
        ordering = ("title",)

    def __str__(self) -> str:
        return self.title
