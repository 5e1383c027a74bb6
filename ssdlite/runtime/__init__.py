"""Running exported models with numpy and the runtime's own package. Needs no torch."""
