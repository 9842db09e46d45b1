"""The rig that all kinds' tests share: table, queues, workers, delivery of messages, clocks and faults."""
