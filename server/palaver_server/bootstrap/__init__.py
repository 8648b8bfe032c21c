"""Assembly: builds every part from the settings, starts and stops them."""
