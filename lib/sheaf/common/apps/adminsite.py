"""What the four administration sites share: their look, forms with names for every field, actions on ticked rows."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest

__all__ = ["Lines", "Records", "new_site", "set_on_selected"]


class NamedActionForm(ActionForm):
    """The dropdown of actions, with a name of its own (Django's label also spells out the options)."""

    action = forms.ChoiceField(label="Action:", widget=forms.Select(attrs={"aria-label": "Action"}))


class Records(admin.ModelAdmin):
    """A list of records and the form of one."""

    action_form = NamedActionForm
    list_per_page = 25
    show_full_result_count = True


class NamedLines(forms.BaseInlineFormSet):
    """Lines below a record whose fields are called ``<field>, line <n>``."""

    def add_fields(self, form: Any, index: int | None) -> None:
        """Names the fields of one line; the empty line that scripts copy keeps its placeholder."""
        super().add_fields(form, index)
        place = "new line" if index is None else f"line {index + 1}"
        for name, field in form.fields.items():
            label = "Delete" if name == "DELETE" else str(field.label or name).capitalize()
            getattr(field.widget, "widget", field.widget).attrs["aria-label"] = f"{label}, {place}"


class Lines(admin.TabularInline):
    """Lines below a record; one empty line is ready."""

    formset = NamedLines
    extra = 1


def new_site(name: str, title: str) -> admin.AdminSite:
    """An administration site under its own namespace."""
    site = admin.AdminSite(name)
    site.site_header = site.site_title = title
    site.index_title = "Start page"
    site.site_url = None
    return site


def set_on_selected(description: str, done: str, **values: Any) -> Callable[..., None]:
    """An action that sets fields of the ticked rows; ``done`` says what they now are, as in "marked as paid"."""

    @admin.action(description=description)
    def run(records: admin.ModelAdmin, request: HttpRequest, chosen: QuerySet[Any]) -> None:
        count = chosen.update(**values)
        kind = records.opts.verbose_name if count == 1 else records.opts.verbose_name_plural
        records.message_user(request, f"{count} {kind} {'was' if count == 1 else 'were'} {done}.")

    run.__name__ = description.lower().replace(" ", "_")
    return run
