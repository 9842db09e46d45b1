"""The rig that the tests of all kinds share: table, queues, workers, delivery of messages, clocks and faults."""
