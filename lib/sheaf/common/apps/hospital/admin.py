"""The pages of the hospital's revenue cycle."""

from django.contrib import admin

from sheaf.common.apps.adminsite import Lines, Records, new_site, set_on_selected

from sheaf.common.apps.hospital.models import (  # isort: skip
    Authorization, Claim, ClaimLine, Denial, Encounter, Patient, PatientPayment, Payer,
)  # fmt: skip

__all__ = ["site"]

site = new_site("hospital", "St. Brannoc revenue cycle")


class ClaimLines(Lines):
    model = ClaimLine


@admin.register(Payer, site=site)
class Payers(Records):
    list_display = ("name", "kind", "electronic_id", "phone")
    list_filter = ("kind",)
    search_fields = ("name", "electronic_id")


@admin.register(Patient, site=site)
class Patients(Records):
    list_display = ("name", "record_number", "born_on", "payer")
    list_filter = ("payer",)
    search_fields = ("name", "record_number", "member_number")


@admin.register(Encounter, site=site)
class Encounters(Records):
    list_display = ("number", "patient", "kind", "department", "admitted_on", "discharged_on")
    list_filter = ("kind", "department")
    search_fields = ("number", "patient__name")


@admin.register(Authorization, site=site)
class Authorizations(Records):
    list_display = ("number", "patient", "procedure", "status", "approved_visits", "valid_until")
    list_filter = ("status",)
    search_fields = ("number", "patient__name", "procedure")
    actions = (set_on_selected("Mark selected authorizations as expired", "marked as expired", status="expired"),)


@admin.register(Claim, site=site)
class Claims(Records):
    list_display = ("number", "encounter", "payer", "amount", "status")
    list_filter = ("status", "payer")
    search_fields = ("number", "encounter__number", "encounter__patient__name")
    inlines = (ClaimLines,)
    actions = (
        set_on_selected("Submit selected claims", "submitted", status=Claim.Status.SUBMITTED),
        set_on_selected("Return selected claims to draft", "returned to draft", status=Claim.Status.DRAFT),
    )


@admin.register(Denial, site=site)
class Denials(Records):
    list_display = ("number", "claim", "reason", "received_on", "status", "owner")
    list_filter = ("status", "reason")
    search_fields = ("number", "claim__number")
    actions = (set_on_selected("Accept selected denials", "accepted", status=Denial.Status.ACCEPTED),)


@admin.register(PatientPayment, site=site)
class PatientPayments(Records):
    list_display = ("receipt", "encounter", "amount", "method", "received_on")
    list_filter = ("method",)
    search_fields = ("receipt", "encounter__number")
