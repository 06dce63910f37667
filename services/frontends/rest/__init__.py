"""HTTP: one lean ASGI app for both REST dialects, health and metrics; everything else goes to the typed endpoints."""
