"""Help desk: customers, tickets and their replies, agents, help articles."""
