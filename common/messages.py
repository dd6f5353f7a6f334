"""What both ends of a message between coordinator and clinic agree on."""

MESSAGE_VERSION = 2
"""Version of the requests and answers; either side refuses another. 2: a clinic is first asked whether it can end the
run, without counts, and its counts are noised counts of units."""
