"""What makes a good public start: starts and necks compared on public sources that they have not seen."""
