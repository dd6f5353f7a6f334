"""The clinics of a consortium: keys, certificates, and what they last said."""
