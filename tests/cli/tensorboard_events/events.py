# Wrote the file `events` beside it: python events.py events, with tensorboard 2.21.0 from PyPI.
import sys

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
with open(sys.argv[1],'wb') as f:
    w=RecordWriter(f)
    w.write(Event(wall_time=1.7e9,file_version='brain.Event:2').SerializeToString())
    for step,wall,values in [
        (1,1.7e9+0.25,[('loss/train',6.9603593),('lr',0.0),('grad_norm',1.5),('progress/flops',1.1056188211200e13)]),
        (300,1.7e9+77.125,[('loss/held_out',-0.25)]),
        (70_000_000_000,1.8e9,[('t'*200,3.25),('inf',float('inf'))]),
    ]:
        w.write(Event(wall_time=wall,step=step,summary=Summary(value=[Summary.Value(tag=t,simple_value=v) for t,v in values])).SerializeToString())
    w.flush()
