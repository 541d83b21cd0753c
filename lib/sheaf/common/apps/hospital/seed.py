"""Invented patients, stays and bills; the same every time."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np

from sheaf.common.apps.hospital.models import (  # isort: skip
    Authorization, Claim, ClaimLine, Denial, Encounter, Patient, PatientPayment, Payer,
)  # fmt: skip

__all__ = ["seed"]

PAYERS = [("Aurora Mutual", "private"), ("Beacon Health Plan", "employer"), ("Civic Care Fund", "public"),
          ("Delta Shield", "private"), ("Elmwood Benefit Trust", "employer")]  # fmt: skip
PATIENTS = [
    "Agnes Holloway", "Bashir Nader", "Carmen Ibarra", "Desmond Pryce", "Edith Sorensen", "Farid Osman",
    "Greta Lindholm", "Hugo Marchetti", "Imani Wekesa", "Jonas Petrov", "Keiko Arata", "Lionel Brandt",
    "Mabel Thornbury", "Nikhil Varma", "Odette Fournier", "Pablo Quiroga", "Rosalind Achebe", "Stellan Moberg",
    "Tamsin Yardley", "Umberto Galli",
]  # fmt: skip
DEPARTMENTS = ["Cardiology", "Orthopedics", "Imaging", "General surgery"]
PROCEDURES = ["Physical therapy", "Knee MRI", "Cardiac rehabilitation", "Sleep study", "Home nursing"]
SERVICES = [("99213", "Office visit"), ("70450", "CT of the head"), ("73721", "MRI of a joint"), ("93000", "Electrocardiogram"),
            ("97110", "Therapeutic exercise"), ("36415", "Blood draw")]  # fmt: skip
CLAIM_STATUS = ["ready", "submitted", "denied", "paid", "ready", "draft", "denied"]
REASONS, OWNERS = ["no_auth", "coding", "late", "coverage"], ["", "Vera Kolb", "Tom Ashby"]
FIRST = date(2024, 1, 3)


def seed() -> None:
    """Fills the empty tables: 20 patients, 40 encounters and as many claims, their denials, authorizations, payments."""
    rng = np.random.default_rng(2024_02)
    Payer.objects.bulk_create(
        Payer(id=i, name=name, kind=kind, electronic_id=f"E{4000 + 17 * i}", phone=f"555-01{10 + i}")
        for i, (name, kind) in enumerate(PAYERS, 1)
    )
    Patient.objects.bulk_create(
        Patient(id=i, name=name, record_number=f"MR-{3000 + i}", phone=f"555-02{10 + i}", payer_id=1 + i % 5,
                born_on=date(1940, 1, 1) + timedelta(days=int(rng.integers(0, 25000))), member_number=f"M{70000 + 113 * i}")
        for i, name in enumerate(PATIENTS, 1)
    )  # fmt: skip
    denials: list[Denial] = []
    encounters, claims, lines, payments = [], [], [], []
    kinds = [kind for kind, _ in Encounter.Kind.choices]
    for i in range(1, 41):
        patient, day = 1 + (i * 7) % 20, FIRST + timedelta(days=2 * i)
        encounters.append(Encounter(id=i, number=f"E-{500 + i}", patient_id=patient, kind=kinds[i % 3],
                                    department=DEPARTMENTS[i % 4], admitted_on=day,
                                    discharged_on=day + timedelta(days=3 if i % 3 == 0 else 0)))  # fmt: skip
        services = [SERVICES[(i + k) % 6] for k in range(1 + i % 2)]
        prices = [Decimal(int(rng.integers(4000, 90000))) / 100 for _ in services]
        status = CLAIM_STATUS[i % 7]
        claims.append(Claim(id=i, number=f"CL-{800 + i}", encounter_id=i, payer_id=1 + patient % 5, status=status,
                            billed_on=day + timedelta(days=5), amount=sum(prices)))  # fmt: skip
        lines += [ClaimLine(claim_id=i, code=code, description=text, amount=price)
                  for (code, text), price in zip(services, prices, strict=True)]  # fmt: skip
        if status == "denied":
            denials.append(Denial(number=f"D-{100 + len(denials) + 1}", claim_id=i, reason=REASONS[len(denials) % 4],
                                  received_on=day + timedelta(days=20), status=["new", "review", "new"][len(denials) % 3],
                                  owner=OWNERS[len(denials) % 3]))  # fmt: skip
        if i % 4 == 0:
            payments.append(PatientPayment(encounter_id=i, amount=prices[0] / 10, method=["card", "cash", "check"][i % 3],
                                           received_on=day + timedelta(days=9), receipt=f"R-{6000 + i}"))  # fmt: skip
    Encounter.objects.bulk_create(encounters)
    Claim.objects.bulk_create(claims)
    ClaimLine.objects.bulk_create(lines)
    Denial.objects.bulk_create(denials)
    PatientPayment.objects.bulk_create(payments)
    Authorization.objects.bulk_create(
        Authorization(number=f"A-{200 + i}", patient_id=1 + (i * 3) % 20, procedure=PROCEDURES[i % 5],
                      status=["granted", "requested", "granted", "expired", "refused"][i % 5], approved_visits=2 + i % 5,
                      valid_until=date(2024, 3, 1) + timedelta(days=4 * i))
        for i in range(1, 16)
    )  # fmt: skip
