"""Pages of HTML: templates, style, and text made safe to show."""
