"""Class scores of videos and what they are worth: what training, evaluation, reports and servers share."""
