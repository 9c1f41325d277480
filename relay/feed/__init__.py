"""`relay feed`: brings events to other machines, so that the daemon never has to dial out."""
