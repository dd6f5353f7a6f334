"""The coordinator's processes: kept running, reconciled with what runs are wanted, and their health."""
