"""Load on the servers: users, requests, their times, and the results."""
