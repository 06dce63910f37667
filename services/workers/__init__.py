"""`cornet serve --workers N`: a light supervisor, and N processes that share both ports.

The command line turns itself into the supervisor (`start`), a process of the standard library and little else. That
reserves the ports, starts a fresh interpreter per worker (`services.worker`, the server of one process), starts one again
that died, and passes snapshots of what each has counted from one to the other, so that a scrape of any of them tells of
all. Supervisor and worker talk in frames over a socket pair.
"""
