"""The pages of the help desk."""

from django.contrib import admin

from sheaf.common.apps.adminsite import Lines, Records, new_site, set_on_selected
from sheaf.common.apps.support.models import Agent, Article, Customer, Reply, Ticket

__all__ = ["site"]

site = new_site("support", "Help desk")


class Replies(Lines):
    model = Reply


@admin.register(Agent, site=site)
class Agents(Records):
    list_display = ("name", "team", "on_duty")
    list_filter = ("team", "on_duty")
    search_fields = ("name",)


@admin.register(Customer, site=site)
class Customers(Records):
    list_display = ("name", "company", "email", "plan", "seats")
    list_filter = ("plan",)
    search_fields = ("name", "company", "email")


@admin.register(Ticket, site=site)
class Tickets(Records):
    list_display = ("number", "subject", "customer", "agent", "priority", "status")
    list_filter = ("status", "priority", "channel")
    search_fields = ("number", "subject", "customer__name", "customer__company")
    inlines = (Replies,)
    actions = (
        set_on_selected("Close selected tickets", "closed", status=Ticket.Status.CLOSED),
        set_on_selected("Reopen selected tickets", "reopened", status=Ticket.Status.OPEN),
        set_on_selected("Raise selected tickets to urgent", "raised to urgent", priority=Ticket.Priority.URGENT),
    )


@admin.register(Article, site=site)
class Articles(Records):
    list_display = ("title", "category", "status")
    list_filter = ("status", "category")
    search_fields = ("title", "summary")
    actions = (
        set_on_selected("Publish selected articles", "published", status=Article.Status.PUBLISHED),
        set_on_selected("Archive selected articles", "archived", status=Article.Status.ARCHIVED),
    )
