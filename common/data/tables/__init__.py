"""Tables of any form as lines and columns, and what their rows say together."""
