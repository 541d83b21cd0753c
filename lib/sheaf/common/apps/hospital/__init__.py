"""Revenue cycle of a hospital: patients, encounters, claims, denials, authorizations, payments."""
