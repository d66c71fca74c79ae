"""`make bench`: what a failover costs, how fast the command line answers, and what the platform weighs, measured."""
