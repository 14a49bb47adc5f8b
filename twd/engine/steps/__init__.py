"""Several steps of some texts in one call of native code, without Python between the passes."""
