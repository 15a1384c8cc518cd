"""What runs, evaluations, diagnoses and sweeps leave behind, each declared once; without torch."""
