"""Records of runs, evaluations, diagnoses and sweeps, each declared once; without torch."""
