"""Runs the jobs of a plan: in this process, in several processes of this machine, or on a Ray cluster.

Engines decide where and when a job runs; what it computes is up to `stages/` and the same everywhere. Reading order:

    engine, choose                 the interface that all engines implement, and which one the options select
    local, time_limit              jobs one after another in this process; workers of the other engines use it too
    tasks                          jobs packed into tasks, each for one worker
    worker, messages, relay        what a worker runs and posts, and how this process displays it
    same_code                      what the code of a worker is compared with: the software and plug-ins of the plan
    processes                      the engine for several processes of one machine
    ray_engine                     the engine for a Ray cluster, with ray_preflight and ray_progress
"""
