"""Checks after the fact: does a plug-in keep the contract, does a run still hold, can it be repeated?"""
