"""Puts a blessed model where a server looks, all at once."""
