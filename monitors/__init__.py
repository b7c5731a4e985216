"""What happened and what follows from it. Imports `registry` alone."""
