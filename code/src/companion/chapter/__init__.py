"""What a chapter imports: claims, numbers, figures, plots. Small and stable, as a change here executes chapters anew."""
