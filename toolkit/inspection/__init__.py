"""What an artifact holds: one file a kind of artifact, each giving a :class:`~toolkit.inspection.report.Report`."""
