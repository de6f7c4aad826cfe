"""The softmax Decision Transformer (Chen et al. 2021): the Flowformer's twin in all but its attention."""

from dataclasses import replace

from flowrl.agents.flow import FLOW, FLOW_PAPER

DT = replace(FLOW, attention="softmax")
DT_PAPER = replace(FLOW_PAPER, attention="softmax")
