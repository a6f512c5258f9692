"""What any tool needs: errors, console, files, stages, hub, names. Knows no model and no setting."""
