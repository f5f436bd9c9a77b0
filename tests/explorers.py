"""For tests of explorers: what hangs below a widget."""

import ipywidgets


def all_widgets(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from all_widgets(child)


def live_picture(widget):
    (picture,) = [w for w in all_widgets(widget) if isinstance(w, ipywidgets.Image)]
    return picture


def controls(widget):
    kinds = (ipywidgets.FloatSlider, ipywidgets.SelectionSlider, ipywidgets.Dropdown)
    return {w.description: w for w in all_widgets(widget) if isinstance(w, kinds)}


def pressed(widget):
    """Buttons and boxes for texts, by what stands on or before them."""
    kinds = (ipywidgets.ToggleButton, ipywidgets.Text, ipywidgets.Textarea)
    return {w.description: w for w in all_widgets(widget) if isinstance(w, kinds)}
