"""What people do in a hospital's revenue cycle."""

from sheaf.common.apps.goals import added, changes, id_of
from sheaf.common.apps.server import AppServer
from sheaf.common.apps.workflow import Slots, Walk, Workflow

__all__ = ["WORKFLOWS"]

PAYERS = ("Aurora Mutual", "Beacon Health Plan", "Civic Care Fund", "Delta Shield", "Elmwood Benefit Trust")


def _record_payment(walk: Walk, slots: Slots) -> None:
    walk.enter("Patient payments", "patientpayment", astray="Encounters")
    walk.add("Patient payments", "patient payment")
    walk.driver.select("Encounter:", "E-501" if walk.wrong else slots["encounter"])
    walk.driver.fill("Amount:", slots["amount"])
    walk.driver.select("Method:", slots["method"])
    walk.driver.fill("Received on:", slots["date"])
    walk.driver.fill("Receipt:", slots["receipt"])
    walk.save()


def _payment_recorded(server: AppServer, slots: Slots) -> bool:
    wanted = {
        "encounter_id": id_of(server, "hospital_encounter", "number", slots["encounter"]), "method": slots["method"].lower(),
        "amount": float(slots["amount"]), "received_on": slots["date"], "receipt": slots["receipt"],
    }  # fmt: skip
    return added(server, "hospital_patientpayment") == [wanted]


def _appeal(walk: Walk, slots: Slots) -> None:
    walk.enter("Denials", "denial", astray="Claims")
    walk.find("Denials", slots["claim"], row=slots["denial"], instead="D-105")
    walk.driver.select("Status:", "In review" if walk.wrong else "Appealed")
    walk.driver.fill("Appeal note:", slots["note"])
    walk.save()


def _appealed(server: AppServer, slots: Slots) -> bool:
    wanted = {"status": "appealed", "appeal_note": slots["note"]}
    return changes(server, "hospital_denial", "number") == {slots["denial"]: wanted}


def _update_coverage(walk: Walk, slots: Slots) -> None:
    walk.enter("Patients", "patient", astray="Payers")
    walk.find("Patients", slots["patient"], instead="Carmen Ibarra")
    walk.driver.select("Payer:", slots["payer"])
    if not walk.wrong:  # the new payer with the old member number
        walk.driver.fill("Member number:", slots["member"])
    walk.save()


def _coverage_updated(server: AppServer, slots: Slots) -> bool:
    wanted = {"payer_id": PAYERS.index(slots["payer"]) + 1, "member_number": slots["member"]}
    return changes(server, "hospital_patient", "name") == {slots["patient"]: wanted}


def _submit_claims(walk: Walk, slots: Slots) -> None:
    payer = f"payer__id__exact={PAYERS.index(slots['payer']) + 1}"
    walk.enter("Claims", "claim", astray="Authorizations")
    if not walk.wrong:  # without the first filter everything of the payer goes out
        walk.narrow("Ready to submit", "claim", "status__exact=ready")
        payer += "&status__exact=ready"
    walk.narrow(slots["payer"], "claim", payer)
    walk.tick_all()
    walk.apply("Submit selected claims")


def _claims_submitted(server: AppServer, slots: Slots) -> bool:
    ready = server.query(
        "SELECT number FROM hospital_claim WHERE status = 'ready' AND payer_id = ?",
        [PAYERS.index(slots["payer"]) + 1], seeded=True,
    )  # fmt: skip
    return changes(server, "hospital_claim", "number") == {row["number"]: {"status": "submitted"} for row in ready}


def _extend(walk: Walk, slots: Slots) -> None:
    walk.enter("Authorizations", "authorization", astray="Patients")
    walk.find("Authorizations", slots["authorization"], instead="A-203")
    walk.driver.fill("Approved visits:", slots["visits"])
    walk.driver.fill("Valid until:", slots["date"])
    if walk.wrong:  # leaves without saving
        walk.driver.click("link", "Authorizations")
    else:
        walk.save()


def _extended(server: AppServer, slots: Slots) -> bool:
    wanted = {"approved_visits": int(slots["visits"]), "valid_until": slots["date"]}
    return changes(server, "hospital_authorization", "number") == {slots["authorization"]: wanted}


def _correct_code(walk: Walk, slots: Slots) -> None:
    walk.enter("Claims", "claim", astray="Denials")
    walk.find("Claims", slots["claim"], instead="CL-839")
    walk.driver.fill("Code, line 2" if walk.wrong else "Code, line 1", slots["code"])  # a second line is refused as incomplete
    walk.save()


def _code_corrected(server: AppServer, slots: Slots) -> bool:
    claim = id_of(server, "hospital_claim", "number", slots["claim"])
    line = server.query("SELECT id FROM hospital_claimline WHERE claim_id = ? AND code = ?", [claim, slots["old"]], seeded=True)
    return changes(server, "hospital_claimline", "id") == {line[0]["id"]: {"code": slots["code"]}}


WORKFLOWS = (
    Workflow(
        "hospital/appeal_denial", "hospital", 'Appeal denial {denial} of claim {claim} with the note "{note}"',
        (
            {"denial": "D-103", "claim": "CL-809", "note": "Filed on the last day allowed"},
            {"denial": "D-106", "claim": "CL-820", "note": "Coder has confirmed the code"},
            {"denial": "D-109", "claim": "CL-830", "note": "Authorization was on file"},
        ),
        _appeal, _appealed,
    ),
    Workflow(
        "hospital/submit_claims", "hospital", "Submit all claims to {payer} that are ready",
        tuple({"payer": payer} for payer in PAYERS[:4]),
        _submit_claims, _claims_submitted,
    ),
    Workflow(
        "hospital/record_payment", "hospital",
        "Record that {amount} was paid by {method} for encounter {encounter} on {date}, receipt {receipt}",
        (
            {"encounter": "E-513", "amount": "40.00", "method": "Card", "date": "2024-03-04", "receipt": "R-6113"},
            {"encounter": "E-526", "amount": "25.50", "method": "Cash", "date": "2024-03-11", "receipt": "R-6126"},
            {"encounter": "E-537", "amount": "112.00", "method": "Check", "date": "2024-03-27", "receipt": "R-6137"},
        ),
        _record_payment, _payment_recorded,
    ),
    Workflow(
        "hospital/update_coverage", "hospital", "Change the insurance of patient {patient} to {payer}, member number {member}",
        (
            {"patient": "Greta Lindholm", "payer": "Aurora Mutual", "member": "AM-55120"},
            {"patient": "Nikhil Varma", "payer": "Beacon Health Plan", "member": "BH-90417"},
            {"patient": "Odette Fournier", "payer": "Delta Shield", "member": "DS-30865"},
        ),
        _update_coverage, _coverage_updated,
    ),
    Workflow(
        "hospital/extend_authorization", "hospital",
        "Extend authorization {authorization} of {patient} to {visits} visits until {date}",
        (
            {"authorization": "A-202", "patient": "Greta Lindholm", "visits": "8", "date": "2024-06-30"},
            {"authorization": "A-210", "patient": "Keiko Arata", "visits": "6", "date": "2024-07-15"},
            {"authorization": "A-215", "patient": "Farid Osman", "visits": "10", "date": "2024-09-01"},
        ),
        _extend, _extended,
    ),
    Workflow(
        "hospital/correct_code", "hospital", "On claim {claim}, correct the billing code {old} to {code}",
        (
            {"claim": "CL-806", "old": "99213", "code": "99214"}, {"claim": "CL-816", "old": "97110", "code": "97112"},
            {"claim": "CL-820", "old": "73721", "code": "73723"},
        ),
        _correct_code, _code_corrected,
    ),
)  # fmt: skip
