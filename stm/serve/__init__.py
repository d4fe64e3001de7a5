"""A trained network behind HTTP, on Ray Serve: a video in, its five likeliest classes out.

             HTTP              bytes                    uint8 clip
client ---> proxy ---> Front ---------> Decoder --> Front ---------> Network
                       limits,          a child process              batches of clips from
                       answers          that may die or hang         whatever is in flight

app.py        what runs where; start and stop
front.py      HTTP: sizes, times, how many at once, what each failure is called
decoder.py    the deployment that decodes; uploads.py is what its child process runs
network.py    the deployment that batches clips
form.py       the first file of a multipart body
page.py       the page to drop a video on
"""
