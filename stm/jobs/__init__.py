"""Jobs on a Ray cluster elsewhere: what code is sent (``package``), and the cluster's job server (``client``)."""
