"""What the text-to-image family needs beside its pipeline: pictures in grey levels, prompts, and how samples are judged."""
