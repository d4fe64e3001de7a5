"""An HTTP server on Ray Serve, which answers a video with its five most probable classes.

             HTTP              bytes                    uint8 clip
client ---> proxy ---> Front ---------> Decoder --> Front ---------> Network
                       limits,          a child process              batches of clips from
                       answers          that may die or hang         all requests in flight

app.py        starts and stops the server on a Ray cluster
front.py      the HTTP routes, the limits and the answers
decoder.py    the deployment that decodes; uploads.py runs in its child process
network.py    the deployment that scores batches of clips
form.py       reads the files of a multipart body; frames.py decodes images and archives of images
page.py       the page on which you drop a video
wire.py       limits connections in Ray Serve's proxy
meters.py     counts and times for Prometheus
"""
