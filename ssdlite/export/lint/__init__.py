"""What a mobile runtime will refuse or leave to the CPU."""
