"""Pictures and pages for people: curves, neighbours, maps, claims, and one self-contained page for a run."""
