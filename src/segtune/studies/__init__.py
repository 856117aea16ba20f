"""Published studies. A report judges their claims if its sweep was made for them or if claims= asks for it."""
