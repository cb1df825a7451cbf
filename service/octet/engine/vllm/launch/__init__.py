"""What starts vLLM: flags, processes, cores, sockets, machines, logs; and what sees to their end."""
