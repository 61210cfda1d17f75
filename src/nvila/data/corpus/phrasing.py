"""How people ask: at least twenty wordings a task, four of which are kept for the held-out side.

Templates are `str.format` strings; every template of a task takes the same slots. Which four are held out
follows from md5 of the template, so adding a wording moves at most one other.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from nvila.data.corpus.listing import listed
from nvila.data.corpus.splits import Split, held_out_of

NUM_HELD_OUT = 4
SHARE_WITH_LEAD = 0.3
SHARE_LOOSENED = 0.35
FILLERS = listed("please|now|here|exactly|really|just|then|actually|you think|in this|there|again|also|quickly")
LEADS = listed(
    "Tell me: |Can you tell me: |Please tell me: |Look at the picture. |Look: |Please say: |Can you say it? |Now, "
    "|In this picture: |What do you see? |Do you know this? |Say it: |Here: |Check this: |Please: |Can you see it? "
    "|Give the answer: |Does the picture show it? |Which is it? |Name it: "
)

_READ = (
    "What does it say?|Read this|Read the text|What does this say?|What is written here?"
    "|What text is in the image?|Can you read this?|Please read the text.|What is the text?"
    "|Read the text in the picture.|What's written here?|transcribe this|Transcribe the text.|OCR this image"
    "|What does the picture say?|Write down the text you see.|Which text do you see?|what does the text say"
    "|Tell me what is written.|Type out the text in this image.|Extract the text.|What is written in the image?"
    "|text?|What words are in this image?"
)

_RAW: dict[str, str] = {
    "word": _READ
    + "|What word is this?|Read the word|Which word is shown?|What is the word in the picture?|Read this word."
    "|What word do you see?|What does the word say?|Spell out the word you see.|Name the word."
    "|Which word is written here?",
    "line": _READ + "|Read this line|What does the line say?|Read the line of text.|Read the whole line.",
    "paragraph": _READ + "|Read all the text.|Read the paragraph.|What does the note say?|Read everything on this page."
    "|Read the page.|Transcribe the whole text.|Read all the lines.|What does the page say?"
    "|Copy the text exactly.",
    "sign": "What does the sign say?|Read the sign|Read this sign.|What is written on the sign?"
    "|what does the sign say|What is on the sign?|Which words are on the sign?|What's on this sign?"
    "|What does this sign say?|Read the board.|What is written on the board?|Can you read the sign?"
    "|Please read the sign.|Text on the sign?|What does the notice say?|What does it say on the sign?"
    "|Tell me what the sign says.|What does that sign read?|Transcribe the sign."
    "|What text is on the sign?|What does it say?|Read this|What is written here?"
    "|Read the text on the sign",
    "receipt_total": "What is the total?|How much is the total?|What's the total?|total?"
    "|How much was paid in total?|What is the total amount?|How much does everything cost?"
    "|What is the sum?|Total amount on the receipt?|How much is the bill?|What do I have to pay?"
    "|How much did it cost altogether?|What is the total price?|Read the total."
    "|How much is it all together?|What is the grand total?|How much is the whole receipt?"
    "|What does the receipt add up to?|Give me the total.|What was the total on this receipt?"
    "|How much in total?|What is the amount due?",
    "receipt_price": "How much is the {item}?|What is the price of {item}?|How much does {item} cost?"
    "|Price of {item}?|What does the {item} cost?|How much was the {item}?"
    "|What did the {item} cost?|What's the price of the {item}?|how much is {item}"
    "|What is the price for {item}?|How much for the {item}?|Tell me the price of {item}."
    "|What was paid for the {item}?|How expensive is the {item}?|Find the price of {item}."
    "|What is {item} priced at?|How much did they pay for {item}?|Cost of {item}?"
    "|Give me the price of the {item}.|What amount is next to {item}?|Read the price of {item}.",
    "receipt_items": "How many items are there?|How many items are on the receipt?|How many things were bought?"
    "|How many products are listed?|Number of items?|Count the items."
    "|How many goods are on this receipt?|how many items|How many different items are there?"
    "|How many articles were bought?|What is the number of items?"
    "|How many entries are there without the total?|How many products did they buy?"
    "|Count the products on the receipt.|How many things are on the bill?"
    "|How many lines of goods are there?|Tell me how many items were bought."
    "|How many items does the receipt list?|How many purchases are listed?"
    "|How many items did I buy?",
    "naming": "What is this?|What's in this picture?|What is in the image?|What do you see?|what is this"
    "|What is shown here?|What does the picture show?|Name this.|Name the object.|What is it?"
    "|What's this?|Identify this.|What object is this?|What can you see in the image?"
    "|What is in this picture?|What's shown in the image?|Tell me what this is.|What is pictured here?"
    "|What does this image show?|What am I looking at?|Can you tell me what this is?"
    "|Describe the picture in a word.|What kind of thing is this?|Which thing is shown?|What is that?"
    "|Describe this image.|What is depicted?|Recognize this picture.|What's that?"
    "|Do you know what this is?",
    "flag": "Which flag is this?|What flag is this?|Whose flag is this?|Which country's flag is this?"
    "|What is this?|What's in this picture?|Name this flag.|Which country is this flag from?"
    "|What flag do you see?|Identify this flag.|What country does this flag belong to?"
    "|Which flag is shown?|flag of which country?|What is shown here?|What does the picture show?"
    "|Tell me which flag this is.|Do you know this flag?|What is in the image?"
    "|This is the flag of which country?|What flag is in the picture?|Which country has this flag?",
    "count": "How many {things} are there?|How many {things} do you see?|Count the {things}.|how many {things}"
    "|How many {things} are in the picture?|What is the number of {things}?"
    "|How many {things} can you see?|How many {things} are in this image?|Number of {things}?"
    "|How many {things}?|Tell me how many {things} there are.|How many {things} does the image show?"
    "|Count all {things}.|Please count the {things}.|Can you count the {things}?"
    "|What's the number of {things} here?|How many {things} are shown?"
    "|How many {things} appear in the picture?|Give the number of {things}.|Count {things}"
    "|How many {things} are visible?|In total, how many {things} are there?"
    "|Could you count the {things}?|Can you tell how many {things} there are?"
    "|I want to know how many {things} there are.|How many {things} have been drawn?"
    "|Let me know the number of {things}.|What number of {things} is there?"
    "|Are there any {things}, and how many?|How many {things} does the picture have?|Say how many {things} you see."
    "|Give me the count of the {things}.|What is the count of {things}?|How many {things} exist in this picture?"
    "|Find all {things} and count them.|Work out how many {things} are here.|Of {things} there are how many?"
    "|How often do you see {things}?|How many of the things are {things}?|count {things} please",
    "color": "What color is the {shape}?|What colour is the {shape}?|Which color is the {shape}?"
    "|what color is the {shape}|Which color does the {shape} have?|What is the color of the {shape}?"
    "|Color of the {shape}?|The {shape} is what color?|What colour does the {shape} have?"
    "|Tell me the color of the {shape}.|Name the color of the {shape}.|In which color is the {shape}?"
    "|What's the color of the {shape}?|Which colour has the {shape}?|What color is that {shape}?"
    "|Can you tell me the color of the {shape}?|What is the colour of the {shape}?"
    "|Which color is used for the {shape}?|What color do you see on the {shape}?"
    "|Is the {shape} red or which color is it?|Say the color of the {shape}.",
    "shape": "What shape is {color}?|Which shape is {color}?|What is the {color} shape?"
    "|What shape is the {color} one?|what is {color}|Which object is {color}?"
    "|What is the shape of the {color} object?|What {color} shape is there?|Name the {color} shape."
    "|What shape has the color {color}?|What {color} thing do you see?|The {color} thing is what shape?"
    "|Which {color} shape do you see?|What is {color} in this picture?|What kind of shape is {color}?"
    "|Which one is {color}?|Tell me the {color} shape.|Identify the {color} shape."
    "|What form does the {color} thing have?|What's the shape of the {color} one?"
    "|Which shape is drawn in {color}?",
    "relation": "Is the {a} {relation} the {b}?|is the {a} {relation} the {b}"
    "|Would you say the {a} is {relation} the {b}?|The {a} is {relation} the {b}, true?"
    "|Is it true that the {a} is {relation} the {b}?|Do you see the {a} {relation} the {b}?"
    "|Does the {a} lie {relation} the {b}?|Is the {a} placed {relation} the {b}?"
    "|Can the {a} be found {relation} the {b}?|I think the {a} is {relation} the {b}, is that so?"
    "|Is the {a} {relation} the {b} or not?|Is the {a} somewhere {relation} the {b}?"
    "|Yes or no: is the {a} {relation} the {b}?|Is the {a} located {relation} the {b}?"
    "|Check: is the {a} {relation} the {b}?|Is the {a} drawn {relation} the {b}?"
    "|Tell me if the {a} is {relation} the {b}.|Is the {a} really {relation} the {b}?"
    "|Does the picture show the {a} {relation} the {b}?"
    "|Am I correct that the {a} is {relation} the {b}?|Is the {a} sitting {relation} the {b}?"
    "|Can you see the {a} {relation} the {b}?|Is it correct that the {a} is {relation} the {b}?"
    "|Could it be that the {a} is {relation} the {b}?|Is the {a} to be found {relation} the {b}?"
    "|Say yes or no: the {a} is {relation} the {b}.|True or false: the {a} is {relation} the {b}."
    "|Has the {a} been put {relation} the {b}?|Does the {a} stand {relation} the {b}?"
    "|Someone says the {a} is {relation} the {b}. Is that true?|Is there a {a} {relation} the {b}?"
    "|Would I find the {a} {relation} the {b}?|Please check if the {a} is {relation} the {b}."
    "|Do we have the {a} {relation} the {b}?|In the picture, is the {a} {relation} the {b}?"
    "|The {a} {relation} the {b}: yes or no?|Is the {a} shown {relation} the {b}?",
    "neighbour": "What is {relation} the {b}?|Which shape is {relation} the {b}?|what is {relation} the {b}"
    "|What do you see {relation} the {b}?|What lies {relation} the {b}?"
    "|What can be found {relation} the {b}?|What object is {relation} the {b}?"
    "|What's {relation} the {b}?|Name what is {relation} the {b}.|What sits {relation} the {b}?"
    "|Which thing is {relation} the {b}?|Tell me what is {relation} the {b}."
    "|What is there {relation} the {b}?|What shape is {relation} the {b}?"
    "|What is drawn {relation} the {b}?|What is located {relation} the {b}?"
    "|Which object do you see {relation} the {b}?|Look {relation} the {b}: what is there?"
    "|What appears {relation} the {b}?|What has been placed {relation} the {b}?"
    "|Identify the shape {relation} the {b}."
    "|Which one is {relation} the {b}?|What can you see {relation} the {b}?|Tell me the shape {relation} the {b}."
    "|What is the shape {relation} the {b}?|What is the thing {relation} the {b}?|What stands {relation} the {b}?"
    "|Find the shape {relation} the {b}.|What would I find {relation} the {b}?|Say what is {relation} the {b}."
    "|{relation} the {b} is what?|What is shown {relation} the {b}?|Which shape do you find {relation} the {b}?"
    "|What is it that is {relation} the {b}?|Let me know what is {relation} the {b}."
    "|In the picture, what is {relation} the {b}?|Which of the shapes is {relation} the {b}?",
    "where": "Where is the {a} relative to the {b}?|Where is the {a} from the {b}?"
    "|Where is the {a} compared to the {b}?|In which direction from the {b} is the {a}?"
    "|Is the {a} left, right, above or below the {b}?|where is the {a}, seen from the {b}"
    "|On which side of the {b} is the {a}?|How is the {a} placed relative to the {b}?"
    "|Seen from the {b}, where is the {a}?|Where do you see the {a} relative to the {b}?"
    "|Starting at the {b}, where is the {a}?|What is the position of the {a} relative to the {b}?"
    "|Which side of the {b} is the {a} on?|The {a} is where, relative to the {b}?"
    "|Where does the {a} lie relative to the {b}?|Relative to the {b}, where is the {a}?"
    "|Is the {a} above, below, left or right of the {b}?|Where is the {a} with respect to the {b}?"
    "|Tell me where the {a} is relative to the {b}.|From the {b}, which way is the {a}?"
    "|Where would you find the {a} from the {b}?"
    "|Where is the {a} if you look from the {b}?|How does the {a} lie relative to the {b}?"
    "|Which way from the {b} is the {a}?|Give the position of the {a} relative to the {b}."
    "|To which side of the {b} is the {a}?|Where has the {a} been placed relative to the {b}?"
    "|In what direction is the {a} from the {b}?|Where should I look for the {a} from the {b}?"
    "|Compared to the {b}, where is the {a}?|Say where the {a} is as seen from the {b}."
    "|The {a}: where is it from the {b}?|Is the {a} on the left, on the right, above or below, seen from the {b}?"
    "|Can you tell where the {a} is from the {b}?|Standing at the {b}, which way is the {a}?"
    "|If I go from the {b} to the {a}, which way do I go?|Where is the {a} in relation to the {b}?"
    "|Which direction do I look from the {b} to see the {a}?|Going from the {b}, which way to the {a}?"
    "|To someone at the {b}, where is the {a}?|Looking out from the {b}, what direction is the {a} in?"
    "|Which way must I look from the {b} for the {a}?|Beside the {b}, to which side is the {a}?",
    "place_across": "Is the {thing} left or right?|Is the {thing} on the left or on the right?"
    "|left or right: the {thing}|On which side is the {thing}, left or right?"
    "|Which side is the {thing} on, left or right?|Is the {thing} in the left half or the right half?"
    "|In which half is the {thing}, left or right?"
    "|Do you see the {thing} on the left or the right?|Is the {thing} at the left or at the right?"
    "|Where is the {thing}, left or right?|Does the {thing} lie left or right?"
    "|Which half has the {thing}, the left or the right one?|Left or right, where is the {thing}?"
    "|Is the {thing} drawn on the left or on the right?|Tell me if the {thing} is left or right."
    "|The {thing} is on which side, left or right?|Can the {thing} be found on the left or the right?"
    "|Is it the left or the right side that has the {thing}?|To which side is the {thing}, left or right?"
    "|Find the {thing}: left or right?|Which of the two sides has the {thing}, left or right?",
    "place_down": "Is the {thing} at the top or at the bottom?|top or bottom: the {thing}"
    "|Is the {thing} in the top half or the bottom half?|In which half is the {thing}, top or bottom?"
    "|Do you see the {thing} at the top or the bottom?|Where is the {thing}, top or bottom?"
    "|Does the {thing} lie at the top or the bottom?|Top or bottom, where is the {thing}?"
    "|Which half has the {thing}, the top or the bottom one?|Is the {thing} drawn at the top or at the bottom?"
    "|Tell me if the {thing} is at the top or the bottom.|The {thing} is at which end, top or bottom?"
    "|Can the {thing} be found at the top or the bottom?|Is it the top or the bottom that has the {thing}?"
    "|Find the {thing}: top or bottom?|Is the {thing} close to the top or the bottom?"
    "|Which end is the {thing} at, top or bottom?|Is the {thing} nearer to the top or to the bottom?"
    "|At which end is the {thing}, top or bottom?|Is the {thing} placed at the top or the bottom?"
    "|Look for the {thing}: is it at the top or the bottom?",
    "bigger": "Which is {bigger}, the {a} or the {b}?|Which one is {bigger}: the {a} or the {b}?"
    "|What is {bigger}, the {a} or the {b}?|Is the {a} or the {b} {bigger}?"
    "|which is {bigger} the {a} or the {b}|Compare the {a} and the {b}: which is {bigger}?"
    "|Which shape is {bigger}, the {a} or the {b}?|Of the {a} and the {b}, which is {bigger}?"
    "|Tell me which is {bigger}: the {a} or the {b}.|Between the {a} and the {b}, which is {bigger}?"
    "|Which of the two is {bigger}, the {a} or the {b}?|What's {bigger}: the {a} or the {b}?"
    "|Which object is {bigger}, the {a} or the {b}?|Name the {bigger} one of the {a} and the {b}."
    "|The {a} or the {b}: which is {bigger}?|Does the {a} or the {b} look {bigger}?"
    "|Which one looks {bigger}, the {a} or the {b}?|Which thing is {bigger}, the {a} or the {b}?"
    "|Which is the {bigger} one, the {a} or the {b}?|Is it the {a} or the {b} that is {bigger}?"
    "|Say which is {bigger}, the {a} or the {b}.",
    "biggest": "Which shape is the {biggest}?|What is the {biggest} shape?|Which one is the {biggest}?"
    "|which shape is {biggest}|What is the {biggest} thing?|Which object is the {biggest}?"
    "|Name the {biggest} shape.|What's the {biggest} object?|Tell me the {biggest} shape."
    "|Find the {biggest} shape.|Which of the shapes is the {biggest}?|What shape is the {biggest}?"
    "|Which thing is the {biggest} here?|Identify the {biggest} shape."
    "|What do you see as the {biggest} shape?|Of all shapes, which is the {biggest}?"
    "|Which is the {biggest} one?|The {biggest} shape is which?"
    "|What is the {biggest} one in the picture?|Show me the {biggest} one: what is it?"
    "|Which shape looks the {biggest}?",
    "more": "Are there more {a} or more {b}?|Which are there more of, {a} or {b}?|More {a} or more {b}?"
    "|What are there more of, {a} or {b}?|Do you see more {a} or {b}?|are there more {a} or {b}"
    "|Is the number of {a} or of {b} greater?|Which is more common, {a} or {b}?"
    "|Which group is larger, the {a} or the {b}?|Compare the numbers of {a} and {b}: which is more?"
    "|Are the {a} or the {b} more numerous?|Of which are there more: {a} or {b}?"
    "|Do {a} or {b} outnumber the others?|Which do you see more often, {a} or {b}?"
    "|Tell me if there are more {a} or {b}.|Between {a} and {b}, which are there more of?"
    "|What is more frequent, {a} or {b}?|Does the picture have more {a} or more {b}?"
    "|Count both: more {a} or more {b}?|Which occur more, {a} or {b}?|Who wins by number, {a} or {b}?",
    "highest": "Which bar is the {highest}?|What is the {highest} bar?|which bar is {highest}"
    "|Which one is the {highest}?|What is the label of the {highest} bar?"
    "|Which label has the {highest} bar?|Name the {highest} bar.|Which bar has the {most} value?"
    "|Which has the {most} value?|What has the {most} value?|Where is the value the {most}?"
    "|What's the {highest} bar?|Which category has the {most} value?"
    "|Tell me which bar is the {highest}.|Find the {highest} bar.|Which category is the {highest}?"
    "|In the chart, which bar is the {highest}?|What category has the {highest} bar?"
    "|Which of the bars is the {highest}?|Looking at the chart, what is {highest}?"
    "|Which item is {most} in the chart?|Read the label of the {highest} bar.",
    "bar_value": "What is the value of {label}?|How much is {label}?|What value does {label} have?"
    "|Value of {label}?|What number is {label}?|How high is {label}?|What is the value for {label}?"
    "|Read the value of {label}.|what is the value of {label}|How big is the bar {label}?"
    "|What does the chart show for {label}?|Which value has {label}?"
    "|What number does the bar {label} show?|What is the height of {label}?"
    "|Give me the value of {label}.|How many is {label}?|What value is shown for {label}?"
    "|Tell me the value of {label}.|How tall is the bar {label}?|What number belongs to {label}?"
    "|In the chart, what is the value of {label}?",
    "bar_count": "How many bars are there?|How many bars does the chart have?|Count the bars.|how many bars"
    "|Number of bars?|How many bars do you see?|How many bars are in the chart?"
    "|What is the number of bars?|How many columns are there?|How many categories are there?"
    "|How many bars are shown?|How many categories does the chart have?|Tell me the number of bars."
    "|Count the columns.|How many bars can you count?|How many bars are drawn?"
    "|How many values does the chart show?|Please count the bars.|How many bars in total?"
    "|How many different bars are there?",
    "slice": "Which slice is the {biggest}?|What is the {biggest} slice?|which slice is {biggest}"
    "|Which part is the {biggest}?|Which label has the {biggest} slice?"
    "|What is the label of the {biggest} slice?|Which one has the {biggest} share?"
    "|What has the {biggest} share?|Name the {biggest} slice.|Which piece of the pie is the {biggest}?"
    "|Find the {biggest} slice.|Which category has the {biggest} slice?"
    "|What's the {biggest} part of the pie?|Tell me the {biggest} slice.|Which share is the {biggest}?"
    "|In the pie chart, what is the {biggest} slice?|Which category is the {biggest}?"
    "|What part is the {biggest}?|Which segment is the {biggest}?|Read the label of the {biggest} slice."
    "|Which of the slices is the {biggest}?",
    "trend": "Is the line going up or down?|Does the line go up or down?|Is the trend up or down?"
    "|What is the trend?|Does the line rise or fall?|Which way does the line go?|is it going up or down"
    "|Is the curve rising or falling?|Is the value going up or down?|What direction does the line take?"
    "|Does the chart go up or down?|Up or down?|Do the values rise or fall?"
    "|Is the line chart going up or down?|What does the line do, up or down?|Is this a rise or a fall?"
    "|Where is the line heading, up or down?|Are the values going up or down?"
    "|How does the line develop, up or down?|Is the graph going up or down?"
    "|Does it increase or decrease?",
    "peak": "Where is the line {highest}?|At which label is the line the {highest}?|Where is the {highest} point?"
    "|Which label has the {highest} point?|When is the value the {highest}?"
    "|At what point is the value the {highest}?|where is it {highest}"
    "|What is the label of the {highest} point?|At which point is the line {highest}?"
    "|Find the {highest} point.|Where does the line reach its {highest} point?"
    "|Which point is the {highest}?|What is the {highest} point of the line?"
    "|Tell me where the line is the {highest}.|Which label is below the {highest} point?"
    "|On the x axis, where is the line {highest}?|When is the line at its {highest}?"
    "|Name the label of the {highest} point.|Where is the chart {highest}?"
    "|In which place is the curve the {highest}?|The {highest} value is at which label?",
    "motion": "Which way does the {thing} move?|Which direction does the {thing} move?"
    "|In which direction is the {thing} moving?|Where does the {thing} go?|Where is the {thing} going?"
    "|which way is the {thing} moving|What direction does the {thing} go?|How does the {thing} move?"
    "|Does the {thing} move left, right, up or down?|Which way does the {thing} go?"
    "|Where does the {thing} move to?|What is the direction of the {thing}?"
    "|Tell me which way the {thing} moves.|In what direction does the {thing} travel?"
    "|Where is the {thing} moving?|To which side does the {thing} move?"
    "|Which direction is the {thing} heading?|Direction of the {thing}?"
    "|What is the {thing} doing, going left, right, up or down?|Towards where does the {thing} move?"
    "|Which way is the {thing} heading?|Describe the motion of the {thing}."
    "|Say which way the {thing} goes.|In what direction does the {thing} move?|Where is the {thing} headed?"
    "|What way does the {thing} move?|Give the direction of the {thing}.|Can you tell where the {thing} moves?"
    "|Is the {thing} moving left, right, up or down?|The {thing} moves in which direction?"
    "|Let me know where the {thing} is going.|To where does the {thing} go?|Which side does the {thing} move towards?"
    "|In the video, which way does the {thing} move?|Name the direction in which the {thing} moves."
    "|What direction is the {thing} moving in?|Up, down, left or right: how does the {thing} move?"
    "|Where does the {thing} travel?|Which direction did the {thing} take?|How is the {thing} moving?",
    "mover": "What moves?|Which object moves?|What is moving?|Which thing is moving?|what moves in the video"
    "|Which shape moves?|Which one moves?|What moves in this clip?|Which object is in motion?"
    "|What thing moves?|Which shape is moving?|Name the thing that moves.|What changes its place?"
    "|Tell me what moves.|Which one is moving?|What is the moving object?|In the video, what is moving?"
    "|Which of the shapes moves?|What object moves in the clip?|Find the moving shape."
    "|Which of these does not stand still?",
    "order": "What appears {when}?|Which shape appears {when}?|What do you see {when}?|What shows up {when}?"
    "|which one comes {when}|Which object appears {when}?|What comes {when}?|Which thing comes {when}?"
    "|What is shown {when}?|Which one is {when}?|Which appears {when} in the video?"
    "|What is visible {when}?|Name the shape that appears {when}.|Which shape comes {when}?"
    "|Tell me what appears {when}.|What happens to appear {when}?|In the clip, what appears {when}?"
    "|Which shape is shown {when}?|Which of the shapes appears {when}?"
    "|What is the shape that comes {when}?|What enters {when}?",
    "recolor": "What color does the {shape} turn into?|What colour does the {shape} become?"
    "|Which color does the {shape} change to?|What color is the {shape} at the end?"
    "|Into which color does the {shape} change?|what color does the {shape} become"
    "|What is the final color of the {shape}?|The {shape} turns which color?"
    "|Which color does the {shape} become?|What color does the {shape} have in the end?"
    "|The {shape} changes its color to what?|What is the last color of the {shape}?"
    "|Which colour is the {shape} at the end?|What does the color of the {shape} change to?"
    "|After the change, what color is the {shape}?|What color does the {shape} get?"
    "|Tell me the color the {shape} turns into.|To what color does the {shape} switch?"
    "|How does the {shape} end up, in which color?|What new color does the {shape} take?"
    "|At the end, what color is the {shape}?",
}


@cache
def phrasings(task: str, split: Split) -> tuple[str, ...]:
    """The wordings of one side, as templates. Raises KeyError for a task that has none."""
    every = tuple(dict.fromkeys(_RAW[task].split("|")))
    hidden = held_out_of(f"phrasing {task}", every, NUM_HELD_OUT)
    return tuple(template for template in every if (template in hidden) == (split == "heldout"))


def phrasing_tasks() -> tuple[str, ...]:
    """The names of all tasks that have wordings."""
    return tuple(_RAW)


def phrase(rng: np.random.Generator, split: Split, task: str, **slots: str) -> str:
    """A random question of this side with the slots filled in.

    In training one in three has other words before it, and one in three is loosened. Otherwise a model that knows few
    wordings learns them by their first words, and takes an unseen one for another task.
    """
    templates = phrasings(task, split)
    template = templates[int(rng.integers(len(templates)))]
    if split == "heldout":
        return template.format(**slots)
    if rng.random() < SHARE_LOOSENED:
        template = _loosened(rng, template, phrasings(task, "heldout"))
    question = template.format(**slots)
    if rng.random() > SHARE_WITH_LEAD:
        return question
    return LEADS[int(rng.integers(len(LEADS)))] + question


def _loosened(rng: np.random.Generator, template: str, hidden: tuple[str, ...]) -> str:
    """`template` as someone types it in a hurry: up to two words missing, one too many, small letters, no mark."""
    words = template.split(" ")
    for place in rng.permutation(len(words))[: int(rng.integers(3))].tolist():
        if "{" not in words[place] and len(words) - words.count("") > 2:
            words[place] = ""
    if rng.random() < 0.3:
        words.insert(int(rng.integers(len(words) + 1)), FILLERS[int(rng.integers(len(FILLERS)))])
    loose = " ".join(word for word in words if word)
    if rng.random() < 0.3:
        loose = loose[:1].lower() + loose[1:]
    if rng.random() < 0.3:
        loose = loose.rstrip("?.")
    return template if loose in hidden else loose
