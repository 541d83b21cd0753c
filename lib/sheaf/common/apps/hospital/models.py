"""Tables of a hospital's revenue cycle."""

from django.db import models

__all__ = ["Authorization", "Claim", "ClaimLine", "Denial", "Encounter", "Patient", "PatientPayment", "Payer"]


class Payer(models.Model):
    """An insurer."""

    class Kind(models.TextChoices):
        PUBLIC = "public", "Public"
        PRIVATE = "private", "Private"
        EMPLOYER = "employer", "Employer plan"

    name = models.CharField(max_length=60, unique=True)
    kind = models.CharField(max_length=10, choices=Kind)
    electronic_id = models.CharField("electronic ID", max_length=10)
    phone = models.CharField(max_length=20)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Patient(models.Model):
    """A person treated, and who pays for it."""

    name = models.CharField(max_length=60)
    record_number = models.CharField(max_length=10, unique=True)
    born_on = models.DateField()
    phone = models.CharField(max_length=20)
    payer = models.ForeignKey(Payer, models.PROTECT)
    member_number = models.CharField(max_length=20)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Encounter(models.Model):
    """A visit or a stay."""

    class Kind(models.TextChoices):
        INPATIENT = "inpatient", "Inpatient"
        OUTPATIENT = "outpatient", "Outpatient"
        EMERGENCY = "emergency", "Emergency"

    number = models.CharField(max_length=10, unique=True)
    patient = models.ForeignKey(Patient, models.PROTECT)
    kind = models.CharField(max_length=12, choices=Kind)
    department = models.CharField(max_length=40)
    admitted_on = models.DateField()
    discharged_on = models.DateField(null=True, blank=True)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class Authorization(models.Model):
    """A payer's consent to a treatment, for a number of visits until a day."""

    class Status(models.TextChoices):
        REQUESTED = "requested", "Requested"
        GRANTED = "granted", "Granted"
        EXPIRED = "expired", "Expired"
        REFUSED = "refused", "Refused"

    number = models.CharField(max_length=10, unique=True)
    patient = models.ForeignKey(Patient, models.PROTECT)
    procedure = models.CharField(max_length=60)
    status = models.CharField(max_length=10, choices=Status)
    approved_visits = models.PositiveIntegerField()
    valid_until = models.DateField()

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class Claim(models.Model):
    """The bill to a payer for an encounter."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        READY = "ready", "Ready to submit"
        SUBMITTED = "submitted", "Submitted"
        DENIED = "denied", "Denied"
        PAID = "paid", "Paid"

    number = models.CharField(max_length=10, unique=True)
    encounter = models.ForeignKey(Encounter, models.PROTECT)
    payer = models.ForeignKey(Payer, models.PROTECT)
    status = models.CharField(max_length=10, choices=Status)
    billed_on = models.DateField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class ClaimLine(models.Model):
    """One service on a claim, by its billing code."""

    claim = models.ForeignKey(Claim, models.CASCADE)
    code = models.CharField(max_length=8)
    description = models.CharField(max_length=60)
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.code


class Denial(models.Model):
    """A payer's refusal of a claim, and what is done about it."""

    class Status(models.TextChoices):
        NEW = "new", "New"
        REVIEW = "review", "In review"
        APPEALED = "appealed", "Appealed"
        ACCEPTED = "accepted", "Accepted"

    class Reason(models.TextChoices):
        NO_AUTH = "no_auth", "No authorization"
        CODING = "coding", "Coding error"
        LATE = "late", "Filed late"
        COVERAGE = "coverage", "Not covered"

    number = models.CharField(max_length=10, unique=True)
    claim = models.ForeignKey(Claim, models.PROTECT)
    reason = models.CharField(max_length=10, choices=Reason)
    received_on = models.DateField()
    status = models.CharField(max_length=10, choices=Status, default=Status.NEW)
    owner = models.CharField(max_length=40, blank=True)
    appeal_note = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("-number",)

    def __str__(self) -> str:
        return self.number


class PatientPayment(models.Model):
    """Money a patient paid towards an encounter."""

    class Method(models.TextChoices):
        CARD = "card", "Card"
        CASH = "cash", "Cash"
        CHECK = "check", "Check"

    encounter = models.ForeignKey(Encounter, models.PROTECT)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    method = models.CharField(max_length=8, choices=Method)
    received_on = models.DateField()
    receipt = models.CharField(max_length=20)

    class Meta:
        ordering = ("-received_on", "id")

    def __str__(self) -> str:
        return self.receipt
