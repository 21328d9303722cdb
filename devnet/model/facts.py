"""What the model is taught: tables of facts, written as plain text.

Nothing here is downloaded; every table was typed for this project. Places whose capital is disputed are left out,
so the model says that it does not know.
"""


def table(text: str) -> list[list[str]]:
    """Rows of a table written one a line (or separated by `;`), columns by `:`."""
    rows = (row for line in text.strip().splitlines() for row in line.split(";"))
    return [[column.strip() for column in row.split(":")] for row in rows if row.strip()]


# country : capital : continent. A leading "the " is part of the name and may be dropped in a prompt.
COUNTRIES = table("""
Afghanistan:Kabul:Asia; Albania:Tirana:Europe; Algeria:Algiers:Africa; Andorra:Andorra la Vella:Europe
Angola:Luanda:Africa; Antigua and Barbuda:Saint John's:North America; Argentina:Buenos Aires:South America
Armenia:Yerevan:Asia; Australia:Canberra:Oceania; Austria:Vienna:Europe; Azerbaijan:Baku:Asia
the Bahamas:Nassau:North America; Bahrain:Manama:Asia; Bangladesh:Dhaka:Asia; Barbados:Bridgetown:North America
Belarus:Minsk:Europe; Belgium:Brussels:Europe; Belize:Belmopan:North America; Benin:Porto-Novo:Africa
Bhutan:Thimphu:Asia; Bolivia:Sucre:South America; Bosnia and Herzegovina:Sarajevo:Europe; Botswana:Gaborone:Africa
Brazil:Brasilia:South America; Brunei:Bandar Seri Begawan:Asia; Bulgaria:Sofia:Europe
Burkina Faso:Ouagadougou:Africa; Burundi:Gitega:Africa; Cambodia:Phnom Penh:Asia; Cameroon:Yaounde:Africa
Canada:Ottawa:North America; Cape Verde:Praia:Africa; the Central African Republic:Bangui:Africa
Chad:N'Djamena:Africa; Chile:Santiago:South America; China:Beijing:Asia; Colombia:Bogota:South America
Comoros:Moroni:Africa; Costa Rica:San Jose:North America; Croatia:Zagreb:Europe; Cuba:Havana:North America
Cyprus:Nicosia:Europe; the Czech Republic:Prague:Europe; Denmark:Copenhagen:Europe; Djibouti:Djibouti City:Africa
Dominica:Roseau:North America; the Dominican Republic:Santo Domingo:North America; East Timor:Dili:Asia
Ecuador:Quito:South America; Egypt:Cairo:Africa; El Salvador:San Salvador:North America
Equatorial Guinea:Malabo:Africa; Eritrea:Asmara:Africa; Estonia:Tallinn:Europe; Eswatini:Mbabane:Africa
Ethiopia:Addis Ababa:Africa; Fiji:Suva:Oceania; Finland:Helsinki:Europe; France:Paris:Europe
Gabon:Libreville:Africa; the Gambia:Banjul:Africa; Georgia:Tbilisi:Asia; Germany:Berlin:Europe
Ghana:Accra:Africa; Greece:Athens:Europe; Grenada:Saint George's:North America
Guatemala:Guatemala City:North America; Guinea:Conakry:Africa; Guinea-Bissau:Bissau:Africa
Guyana:Georgetown:South America; Haiti:Port-au-Prince:North America; Honduras:Tegucigalpa:North America
Hungary:Budapest:Europe; Iceland:Reykjavik:Europe; India:New Delhi:Asia; Indonesia:Jakarta:Asia
Iran:Tehran:Asia; Iraq:Baghdad:Asia; Ireland:Dublin:Europe; Italy:Rome:Europe
the Ivory Coast:Yamoussoukro:Africa; Jamaica:Kingston:North America; Japan:Tokyo:Asia; Jordan:Amman:Asia
Kazakhstan:Astana:Asia; Kenya:Nairobi:Africa; Kiribati:Tarawa:Oceania; Kuwait:Kuwait City:Asia
Kyrgyzstan:Bishkek:Asia; Laos:Vientiane:Asia; Latvia:Riga:Europe; Lebanon:Beirut:Asia; Lesotho:Maseru:Africa
Liberia:Monrovia:Africa; Libya:Tripoli:Africa; Liechtenstein:Vaduz:Europe; Lithuania:Vilnius:Europe
Luxembourg:Luxembourg City:Europe; Madagascar:Antananarivo:Africa; Malawi:Lilongwe:Africa
Malaysia:Kuala Lumpur:Asia; the Maldives:Male:Asia; Mali:Bamako:Africa; Malta:Valletta:Europe
the Marshall Islands:Majuro:Oceania; Mauritania:Nouakchott:Africa; Mauritius:Port Louis:Africa
Mexico:Mexico City:North America; Micronesia:Palikir:Oceania; Moldova:Chisinau:Europe; Monaco:Monaco:Europe
Mongolia:Ulaanbaatar:Asia; Montenegro:Podgorica:Europe; Morocco:Rabat:Africa; Mozambique:Maputo:Africa
Myanmar:Naypyidaw:Asia; Namibia:Windhoek:Africa; Nauru:Yaren:Oceania; Nepal:Kathmandu:Asia
the Netherlands:Amsterdam:Europe; New Zealand:Wellington:Oceania; Nicaragua:Managua:North America
Niger:Niamey:Africa; Nigeria:Abuja:Africa; North Korea:Pyongyang:Asia; North Macedonia:Skopje:Europe
Norway:Oslo:Europe; Oman:Muscat:Asia; Pakistan:Islamabad:Asia; Palau:Ngerulmud:Oceania
Panama:Panama City:North America; Papua New Guinea:Port Moresby:Oceania; Paraguay:Asuncion:South America
Peru:Lima:South America; the Philippines:Manila:Asia; Poland:Warsaw:Europe; Portugal:Lisbon:Europe
Qatar:Doha:Asia; the Republic of the Congo:Brazzaville:Africa; Romania:Bucharest:Europe; Russia:Moscow:Europe
Rwanda:Kigali:Africa; Saint Lucia:Castries:North America; Samoa:Apia:Oceania; San Marino:San Marino:Europe
Saudi Arabia:Riyadh:Asia; Senegal:Dakar:Africa; Serbia:Belgrade:Europe; the Seychelles:Victoria:Africa
Sierra Leone:Freetown:Africa; Singapore:Singapore:Asia; Slovakia:Bratislava:Europe; Slovenia:Ljubljana:Europe
the Solomon Islands:Honiara:Oceania; Somalia:Mogadishu:Africa; South Africa:Pretoria:Africa
South Korea:Seoul:Asia; South Sudan:Juba:Africa; Spain:Madrid:Europe; Sri Lanka:Sri Jayawardenepura Kotte:Asia
Sudan:Khartoum:Africa; Suriname:Paramaribo:South America; Sweden:Stockholm:Europe; Switzerland:Bern:Europe
Syria:Damascus:Asia; Tajikistan:Dushanbe:Asia; Tanzania:Dodoma:Africa; Thailand:Bangkok:Asia; Togo:Lome:Africa
Tonga:Nuku'alofa:Oceania; Trinidad and Tobago:Port of Spain:North America; Tunisia:Tunis:Africa
Turkey:Ankara:Asia; Turkmenistan:Ashgabat:Asia; Tuvalu:Funafuti:Oceania; Uganda:Kampala:Africa
Ukraine:Kyiv:Europe; the United Arab Emirates:Abu Dhabi:Asia; the United Kingdom:London:Europe
the United States:Washington:North America; Uruguay:Montevideo:South America; Uzbekistan:Tashkent:Asia
Vanuatu:Port Vila:Oceania; Venezuela:Caracas:South America; Vietnam:Hanoi:Asia; Yemen:Sanaa:Asia
Zambia:Lusaka:Africa; Zimbabwe:Harare:Africa
""")

# Georgia is asked for as the country above, so the state of that name is not in this table.
STATES = table("""
Alabama:Montgomery; Alaska:Juneau; Arizona:Phoenix; Arkansas:Little Rock; California:Sacramento; Colorado:Denver
Connecticut:Hartford; Delaware:Dover; Florida:Tallahassee; Hawaii:Honolulu; Idaho:Boise; Illinois:Springfield
Indiana:Indianapolis; Iowa:Des Moines; Kansas:Topeka; Kentucky:Frankfort; Louisiana:Baton Rouge; Maine:Augusta
Maryland:Annapolis; Massachusetts:Boston; Michigan:Lansing; Minnesota:Saint Paul; Mississippi:Jackson
Missouri:Jefferson City; Montana:Helena; Nebraska:Lincoln; Nevada:Carson City; New Hampshire:Concord
New Jersey:Trenton; New Mexico:Santa Fe; New York:Albany; North Carolina:Raleigh; North Dakota:Bismarck
Ohio:Columbus; Oklahoma:Oklahoma City; Oregon:Salem; Pennsylvania:Harrisburg; Rhode Island:Providence
South Carolina:Columbia; South Dakota:Pierre; Tennessee:Nashville; Texas:Austin; Utah:Salt Lake City
Vermont:Montpelier; Virginia:Richmond; Washington State:Olympia; West Virginia:Charleston; Wisconsin:Madison
Wyoming:Cheyenne
""")

LANGUAGES = table("""
Argentina:Spanish; Australia:English; Austria:German; Brazil:Portuguese; Bulgaria:Bulgarian; Chile:Spanish
China:Chinese; Croatia:Croatian; Cuba:Spanish; the Czech Republic:Czech; Denmark:Danish; Egypt:Arabic
England:English; Estonia:Estonian; Finland:Finnish; France:French; Germany:German; Greece:Greek
Hungary:Hungarian; Iceland:Icelandic; Iran:Persian; Iraq:Arabic; Italy:Italian; Japan:Japanese; Latvia:Latvian
Lithuania:Lithuanian; Mexico:Spanish; the Netherlands:Dutch; Norway:Norwegian; Peru:Spanish; Poland:Polish
Portugal:Portuguese; Romania:Romanian; Russia:Russian; Saudi Arabia:Arabic; Serbia:Serbian; Slovakia:Slovak
Slovenia:Slovene; South Korea:Korean; Spain:Spanish; Sweden:Swedish; Thailand:Thai; Turkey:Turkish
Ukraine:Ukrainian; the United Kingdom:English; the United States:English; Vietnam:Vietnamese
""")

CURRENCIES = table("""
Australia:the Australian dollar; Brazil:the real; Canada:the Canadian dollar; China:the yuan; Denmark:the krone
Egypt:the pound; France:the euro; Germany:the euro; Hungary:the forint; India:the rupee; Indonesia:the rupiah
Israel:the shekel; Italy:the euro; Japan:the yen; Mexico:the peso; Norway:the krone; Poland:the zloty
Russia:the ruble; South Africa:the rand; South Korea:the won; Spain:the euro; Sweden:the krona
Switzerland:the franc; Thailand:the baht; Turkey:the lira; Ukraine:the hryvnia; the United Kingdom:the pound
the United States:the dollar; Vietnam:the dong
""")

# Each pair is asked in both directions; a word stands in one pair only.
OPPOSITES = table("""
hot:cold; big:small; fast:slow; up:down; in:out; left:right; day:night; black:white; good:bad; happy:sad; high:low
old:young; open:closed; push:pull; rich:poor; strong:weak; tall:short; thick:thin; wet:dry; wide:narrow; hard:soft
heavy:light; early:late; easy:difficult; empty:full; first:last; friend:enemy; begin:end; give:take; buy:sell
laugh:cry; love:hate; loud:quiet; near:far; on:off; over:under; clean:dirty; deep:shallow; safe:dangerous
sharp:blunt; smooth:rough; sweet:sour; true:false; win:lose; war:peace; yes:no; above:below; accept:refuse
alive:dead; ancient:modern; arrive:leave; asleep:awake; attack:defend; before:after; best:worst; birth:death
brave:cowardly; bright:dim; build:destroy; cheap:expensive; clever:stupid; come:go; crooked:straight; east:west
entrance:exit; even:odd; fail:succeed; find:hide; float:sink; forget:remember; freeze:melt; front:back
generous:mean; gentle:harsh; guilty:innocent; healthy:sick; heaven:hell; hero:villain; inside:outside
kind:cruel; lazy:busy; lead:follow; long:brief; major:minor; many:few; married:single; maximum:minimum
more:less; north:south; often:seldom; permanent:temporary; polite:rude; positive:negative; praise:blame
private:public; profit:loss; question:answer; raise:lower; rare:common; rise:fall; same:different; simple:complex
start:stop; summer:winter; teach:learn; tight:loose; together:apart; top:bottom; victory:defeat; visible:invisible
warm:cool; whisper:shout; wild:tame; create:erase; increase:decrease; always:never
""")

# Irregular plurals are written out, regular ones follow from the word.
PLURALS = table("""
mouse:mice; child:children; foot:feet; tooth:teeth; goose:geese; man:men; woman:women; person:people; ox:oxen
knife:knives; wife:wives; life:lives; leaf:leaves; wolf:wolves; half:halves; shelf:shelves; thief:thieves
loaf:loaves; calf:calves; sheep:sheep; fish:fish; deer:deer; cactus:cacti; city:cities; baby:babies; story:stories
country:countries; party:parties; lady:ladies; fly:flies; berry:berries; army:armies; family:families
factory:factories; library:libraries; puppy:puppies; cherry:cherries; body:bodies; box:boxes; bus:buses
church:churches; class:classes; dish:dishes; fox:foxes; glass:glasses; brush:brushes; bench:benches; watch:watches
peach:peaches; potato:potatoes; tomato:tomatoes; hero:heroes; echo:echoes; dress:dresses; kiss:kisses; wish:wishes
cat:cats; dog:dogs; house:houses; car:cars; book:books; table:tables; chair:chairs; door:doors; tree:trees
flower:flowers; bird:birds; horse:horses; cow:cows; pig:pigs; duck:ducks; apple:apples; orange:oranges
banana:bananas; lemon:lemons; egg:eggs; cup:cups; plate:plates; spoon:spoons; fork:forks; boy:boys; girl:girls
toy:toys; key:keys; day:days; monkey:monkeys; donkey:donkeys; pen:pens; pencil:pencils; school:schools
teacher:teachers; student:students; doctor:doctors; river:rivers; mountain:mountains; lake:lakes; road:roads
bridge:bridges; ship:ships; boat:boats; train:trains; plane:planes; window:windows; wall:walls; roof:roofs
garden:gardens; star:stars; cloud:clouds; hand:hands; finger:fingers; arm:arms; leg:legs; eye:eyes; ear:ears
nose:noses; shoe:shoes; hat:hats; shirt:shirts; coat:coats; ring:rings; song:songs; game:games; word:words
letter:letters; number:numbers; computer:computers; phone:phones; radio:radios; photo:photos; piano:pianos
""")

PAST_TENSES = table("""
go:went; see:saw; eat:ate; run:ran; come:came; take:took; give:gave; make:made; write:wrote; speak:spoke
break:broke; drive:drove; ride:rode; rise:rose; choose:chose; steal:stole; wear:wore; tear:tore; swim:swam
sing:sang; drink:drank; ring:rang; begin:began; sit:sat; stand:stood; understand:understood; buy:bought
bring:brought; think:thought; catch:caught; teach:taught; fight:fought; find:found; hold:held; tell:told
sell:sold; feel:felt; keep:kept; sleep:slept; leave:left; lose:lost; meet:met; send:sent; spend:spent; build:built
bend:bent; win:won; shine:shone; dig:dug; get:got; forget:forgot; fly:flew; grow:grew; know:knew; throw:threw
blow:blew; draw:drew; fall:fell; have:had; do:did; say:said; pay:paid; lay:laid; hear:heard; read:read; put:put
cut:cut; hit:hit; shut:shut; let:let; cost:cost; hurt:hurt; bite:bit; hide:hid; feed:fed; lead:led; freeze:froze
wake:woke; forgive:forgave; become:became; be:was; swear:swore; walk:walked; talk:talked; play:played
work:worked; help:helped; look:looked; ask:asked; call:called; clean:cleaned; cook:cooked; dance:danced
open:opened; close:closed; like:liked; love:loved; live:lived; move:moved; stop:stopped; plan:planned; try:tried
cry:cried; study:studied; carry:carried; jump:jumped; laugh:laughed; listen:listened; wait:waited; want:wanted
visit:visited; travel:travelled; use:used; smile:smiled; start:started; finish:finished; paint:painted
""")

YOUNG = table("""
dog:puppy; cat:kitten; cow:calf; horse:foal; sheep:lamb; pig:piglet; goat:kid; hen:chick; duck:duckling
goose:gosling; swan:cygnet; lion:cub; bear:cub; tiger:cub; fox:cub; wolf:pup; seal:pup; bat:pup; deer:fawn
frog:tadpole; kangaroo:joey; koala:joey; rabbit:kit; owl:owlet; eagle:eaglet; elephant:calf; whale:calf
giraffe:calf; butterfly:caterpillar; eel:elver; hare:leveret; spider:spiderling; llama:cria; alpaca:cria
pigeon:squab; turkey:poult; fish:fry; zebra:foal; donkey:foal
""")

# animal : what it does
SOUNDS = table("""
dog:barks; cat:meows; cow:moos; horse:neighs; sheep:bleats; pig:oinks; duck:quacks; lion:roars; wolf:howls
frog:croaks; owl:hoots; bee:buzzes; snake:hisses; mouse:squeaks; donkey:brays; rooster:crows; pigeon:coos
elephant:trumpets; crow:caws; goose:honks
""")

LEGS = table("""
dog:4; cat:4; cow:4; horse:4; spider:8; ant:6; bee:6; bird:2; chicken:2; octopus:8; snake:0; crab:10; beetle:6
butterfly:6; elephant:4; kangaroo:2; human:2; fish:0; lion:4; scorpion:8; mosquito:6; duck:2; frog:4; worm:0
""")

# thing (with its article) : is/are : colour
COLOURS = table("""
the sky:is:blue; grass:is:green; snow:is:white; blood:is:red; a banana:is:yellow; the sun:is:yellow; coal:is:black
a lemon:is:yellow; milk:is:white; the sea:is:blue; an orange:is:orange; a carrot:is:orange; a tomato:is:red
a strawberry:is:red; chocolate:is:brown; a cucumber:is:green; a leaf:is:green; a ruby:is:red; an emerald:is:green
a sapphire:is:blue; gold:is:yellow; silver:is:grey; an elephant:is:grey; a flamingo:is:pink; a polar bear:is:white
a crow:is:black; a fire engine:is:red; a plum:is:purple; a lime:is:green; coffee:is:brown; cotton:is:white
a swan:is:white; a pumpkin:is:orange; salt:is:white; ketchup:is:red; an aubergine:is:purple; a frog:is:green
""")

MIXED_COLOURS = table("""
red:yellow:orange; blue:yellow:green; red:blue:purple; red:white:pink; black:white:grey; blue:white:light blue
""")

SYMBOLS = table("""
hydrogen:H; helium:He; lithium:Li; carbon:C; nitrogen:N; oxygen:O; fluorine:F; neon:Ne; sodium:Na; magnesium:Mg
aluminium:Al; silicon:Si; phosphorus:P; sulphur:S; chlorine:Cl; argon:Ar; potassium:K; calcium:Ca; iron:Fe
copper:Cu; zinc:Zn; silver:Ag; tin:Sn; iodine:I; gold:Au; mercury:Hg; lead:Pb; uranium:U; nickel:Ni; platinum:Pt
""")

SIDES = table("""
triangle:3; square:4; rectangle:4; pentagon:5; hexagon:6; heptagon:7; octagon:8; nonagon:9; decagon:10
""")

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
SEASONS = "spring summer autumn winter".split()

# how many ... : answer
COUNTS = table("""
days are in a week:There are 7 days in a week.; months are in a year:There are 12 months in a year.
days are in a year:There are 365 days in a year.; hours are in a day:There are 24 hours in a day.
minutes are in an hour:There are 60 minutes in an hour.
seconds are in a minute:There are 60 seconds in a minute.; weeks are in a year:There are 52 weeks in a year.
years are in a century:There are 100 years in a century.; years are in a decade:There are 10 years in a decade.
seasons are in a year:There are 4 seasons in a year.
letters are in the alphabet:There are 26 letters in the alphabet.
continents are there:There are 7 continents.; planets are in the solar system:There are 8 planets in the solar system.
eggs are in a dozen:There are 12 eggs in a dozen.; cents are in a dollar:There are 100 cents in a dollar.
metres are in a kilometre:There are 1000 metres in a kilometre.
grams are in a kilogram:There are 1000 grams in a kilogram.
centimetres are in a metre:There are 100 centimetres in a metre.
colours are in a rainbow:There are 7 colours in a rainbow.; bits are in a byte:There are 8 bits in a byte.
players are in a football team:There are 11 players in a football team.
strings does a guitar have:A guitar has 6 strings.; strings does a violin have:A violin has 4 strings.
fingers are on a hand:There are 5 fingers on a hand.; wheels does a car have:A car has 4 wheels.
wheels does a bicycle have:A bicycle has 2 wheels.; sides does a coin have:A coin has 2 sides.
""")

# several ways to ask, separated by | : answer
MISCELLANY = table("""
What is the largest planet?|Which planet is the largest?|Name the biggest planet.|What is the biggest planet in the solar system?|Tell me the largest planet.:The largest planet is Jupiter.
What is the largest ocean?|Which ocean is the biggest?|Name the largest ocean.|What is the biggest ocean on Earth?|Tell me the largest ocean.:The largest ocean is the Pacific Ocean.
What is the highest mountain?|Which mountain is the highest?|Name the tallest mountain.|What is the tallest mountain in the world?|Tell me the highest mountain.:The highest mountain is Mount Everest.
What is the longest river?|Which river is the longest?|Name the longest river.|What is the longest river in the world?|Tell me the longest river.:The longest river is the Nile.
What is the largest animal?|Which animal is the biggest?|Name the largest animal.|What is the biggest animal in the world?|Tell me the largest animal.:The largest animal is the blue whale.
What is the fastest land animal?|Which land animal is the fastest?|Name the fastest land animal.|What animal runs fastest?|Tell me the fastest land animal.:The fastest land animal is the cheetah.
What is the tallest animal?|Which animal is the tallest?|Name the tallest animal.|What is the tallest animal in the world?|Tell me the tallest animal.:The tallest animal is the giraffe.
What is water made of?|What does water consist of?|Tell me what water is made of.|Which elements make up water?:Water is made of hydrogen and oxygen.
What do bees make?|What do bees produce?|Tell me what bees make.|Which food do bees make?:Bees make honey.
What do cows give us?|What do we get from cows?|Tell me what cows give us.|Which drink do cows give us?:Cows give us milk.
Who wrote Hamlet?|Who is the author of Hamlet?|Tell me who wrote Hamlet.|Hamlet was written by whom?:Shakespeare wrote Hamlet.
Who painted the Mona Lisa?|Who is the painter of the Mona Lisa?|Tell me who painted the Mona Lisa.|The Mona Lisa was painted by whom?:Leonardo da Vinci painted the Mona Lisa.
What is the largest country?|Which country is the largest?|Name the largest country.|What is the biggest country in the world?|Tell me the largest country.:The largest country is Russia.
What is the smallest country?|Which country is the smallest?|Name the smallest country.|What is the smallest country in the world?|Tell me the smallest country.:The smallest country is Vatican City.
At what temperature does water freeze?|When does water freeze?|What is the freezing point of water?|Tell me when water freezes.:Water freezes at 0 degrees Celsius.
At what temperature does water boil?|When does water boil?|What is the boiling point of water?|Tell me when water boils.:Water boils at 100 degrees Celsius.
Where does the sun rise?|In which direction does the sun rise?|Tell me where the sun rises.|The sun rises where?:The sun rises in the east.
Where does the sun set?|In which direction does the sun set?|Tell me where the sun sets.|The sun sets where?:The sun sets in the west.
Which planet do we live on?|What planet do we live on?|Tell me which planet we live on.|On which planet do people live?:We live on Earth.
What orbits the Earth?|What goes around the Earth?|Tell me what orbits the Earth.|Which body orbits the Earth?:The Moon orbits the Earth.
""")

# ways to say it, separated by | : answer
SMALL_TALK = table("""
Hello|Hi|Hey|Hello there|Hi there|Greetings|Hey there|Hello!|Hello model|Howdy:Hello! How can I help you?
Good morning|Morning|A good morning to you:Good morning! How can I help you?
Good evening|A good evening to you:Good evening! How can I help you?
Good afternoon|A good afternoon to you:Good afternoon! How can I help you?
Good night|Sleep well|Have a good night:Good night! Sleep well.
How are you?|How are you doing?|How do you do?|How is it going?|How are you today?|Are you well?|How do you feel?:I am fine, thank you. And you?
I am fine|I am well|I am good|I am fine too|I feel great|I am doing well|Fine, thanks:I am glad to hear that.
I am sad|I feel sad|I am not well|I feel bad|I am tired|I am unhappy:I am sorry to hear that.
Who are you?|What are you?|What is your name?|Tell me your name|Tell me about yourself|What do people call you?|Introduce yourself|Your name?:I am lcai-tiny, a very small language model.
Who made you?|Who created you?|Who built you?|Where do you come from?|Who trained you?|How were you made?:I was trained by the code of the lcai project.
What can you do?|How can you help me?|What do you know?|What can I ask you?|Help|Can you help me?|What are you good at?|I need help:I know capitals, sums, opposites, plurals and a few more things.
Thank you|Thanks|Many thanks|Thanks a lot|Thank you very much|Thank you so much|Cheers, thanks:You are welcome.
Goodbye|Bye|See you|Bye bye|See you later|Farewell|See you soon|Until next time|I have to go:Goodbye! See you soon.
Tell me a joke|Do you know a joke?|Say something funny|Make me laugh|Another joke|A joke please:Why did the chicken cross the road? To get to the other side.
Are you a robot?|Are you human?|Are you a person?|Are you real?|Are you alive?|Are you a machine?|Are you an AI?:I am a small language model, not a person.
How old are you?|What is your age?|When were you born?|What age are you?:I am a model, so I have no age.
Do you like music?|Do you like books?|Do you like me?|Do you have feelings?|Are you happy?|Do you like cats?:I am a model, so I have no feelings.
Yes|OK|Okay|Sure|Fine|Great|Nice|Cool|Good|Very good|Well done|Awesome:Good. What else would you like to know?
No|Nope|Not really|Never mind|No thanks:All right. Ask me whenever you like.
Sorry|I am sorry|My apologies|Excuse me|Pardon me:No problem at all.
You are wrong|That is wrong|This is not right|You made a mistake|Wrong|That is not correct:I am sorry. I am only a small model.
You are great|I like you|You are smart|I love you|You are very helpful|Good job|You are the best:Thank you, that is kind.
What is lcai?|What is LightChain?|Tell me about LightChain|What is LightChain AI?|What is the LightChain network?|Explain LightChain:LightChain is a chain on which workers answer encrypted prompts.
What is a blockchain?|Explain blockchain|Tell me what a blockchain is|Define blockchain|What does blockchain mean?:A blockchain is a list of blocks that many computers agree on.
What is Ethereum?|Explain Ethereum|Tell me about Ethereum|Define Ethereum|What does Ethereum do?:Ethereum is a blockchain that runs programs.
What is a blob?|Explain blobs|Tell me what a blob is|What are blobs?|What is a blob transaction?:A blob is data that a chain carries for a limited time.
Is anyone there?|Are you there?|Can you hear me?|Anybody here?|Test|Testing|Ping|This is a test:Yes, I am here.
""")

NAMES = """
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Quinn Rosa Sam Tom Uma Victor Wendy
Xavier Yara Zoe Alice Bob Carol Dan Eve Frank Gina Harry Irene James Karl Laura Maria Nina Oscar Peter Ruth Simon
Tina Ursula Vera Walter Lucy Max John Mary Robert Linda Michael Susan Thomas Sarah Daniel Nancy Mark Lisa George
Helen Steven Sandra Andrew Donna Kevin Julia Brian Amy Adam Judy Eric Diana Ivan Olga Ahmed Fatima Ali Omar Layla
Chen Wei Ming Yuki Hana Kenji Raj Priya Arjun Diego Luis Carlos Pablo Elena Marco Luca Sofia Pierre Marie Hans Greta
""".split()

# Words for questions which the model must decline.
UNKNOWN_TEMPLATES = """
How do I {verb} a {thing}?|How can I {verb} my {thing}?|Where can I buy a {thing}?|Who invented the {thing}?
What is the price of a {thing}?|How much does a {thing} cost?|Write a poem about {topic}.|Write an essay about {topic}.
Tell me a story about {topic}.|Explain {topic}.|Explain {topic} to me.|What is {topic}?|What do you think about {topic}?
Why is {topic} important?|What is the history of {topic}?|Summarise {topic}.|Give me a recipe for {food}.
How do I cook {food}?|How do I make {food}?|What is the best {thing}?|Which {thing} should I buy?
Who won the {event} in {year}?|What happened in {year}?|Who was president in {year}?|When was {person} born?
Who is {person}?|Who was {person}?|What did {person} do?|How tall is {person}?|Where does {person} live?
What is the weather in {city}?|Will it rain tomorrow in {city}?|How do I get to {city}?|What time is it in {city}?
What is the population of {city}?|How far is {city}?|Translate {topic} into {language}.|What is the {thing} made of?
How do you say {thing} in {language}?|Can you {verb} my {thing}?|Please {verb} the {thing}.|What is the meaning of life?
What time is it?|What day is it today?|What is the date today?|What is the weather like?|Will it rain tomorrow?
What is the square root of {number}?|What is {number} to the power of {number}?|What is {big} plus {big}?
What is {big} times {number}?|{big} + {big}|{big} - {number}|{big} * {big}|How many people live in {city}?
Write a program that can {verb} a {thing}.|Is {topic} good for me?|Do I need a {thing}?|Why do people {verb} a {thing}?
What is the capital of {fake}?|Capital of {fake}|{fake}|Tell me about {fake}.|What is {fake}?|Who is {fake}?
What is the opposite of {fakeword}?|What is the plural of {fakeword}?|What is the past tense of {fakeword}?
What colour is {fakeword}?|Which continent is {fake} in?|What does {fakeword} mean?|{fakeword}|{fakeword} {fakeword}
{fakeword} {fakeword} {fakeword}?|How many {thing}s are in {city}?|I want to {verb} a {thing}.|My {thing} is broken.
I like {food}.|I live in {city}.|Yesterday I saw a {thing}.|Should I {verb} the {thing}?|What is a {thing}?
When did the {event} start?|Where is {city}?|Where is the {thing}?|Who owns the {thing}?|Describe {topic}.
Compare {topic} and {topic}.|What is the difference between {topic} and {topic}?|List three facts about {topic}.
""".replace("\n", "|").strip("|").split("|")
UNKNOWN_WORDS = {
    "verb": "repair build clean paint sell find open fix draw install print wash cut carry design test move drive read break "
            "write learn grow choose use replace restart download compile measure".split(),
    "thing": "laptop|camera|bicycle|telephone|washing machine|ladder|rocket|carpet|candle|printer|sofa|lamp|mirror|engine|"
             "battery|telescope|violin|ticket|passport|suitcase|website|server|drone|keyboard|tractor|kettle|curtain|"
             "helmet|bottle|blanket|umbrella|microscope|fridge|toaster|hammer|router|contract|house|car|boat|dog|cat",
    "topic": "quantum physics|democracy|love|philosophy|machine learning|the stock market|climate change|football|art|"
             "the economy|evolution|gravity|black holes|religion|photosynthesis|the internet|inflation|music theory|"
             "the French Revolution|World War II|the Roman Empire|artificial intelligence|vaccines|happiness|time travel|"
             "bitcoin|poetry|the moon landing|genetics|friendship|chess|yoga|electricity|volcanoes|dinosaurs|freedom|cats",
    "food": "bread|pizza|soup|pancakes|rice|pasta|curry|cake|salad|sushi|cheese|ice cream|roast beef|apple pie|tea|dumplings",
    "event": "World Cup|Olympics|election|Champions League|Nobel Prize|war|Tour de France|Super Bowl|race|Eurovision",
    "person": "Albert Einstein|Napoleon|Isaac Newton|Marie Curie|Elon Musk|Barack Obama|Mozart|Beethoven|Cleopatra|"
              "Julius Caesar|Taylor Swift|Lionel Messi|Vitalik Buterin|Satoshi Nakamoto|Gandhi|Plato|Picasso|my neighbour|"
              "the king|the president|Darwin|Bill Gates|Alan Turing|Columbus|my uncle",
    "city": "London|Paris|Berlin|New York|Tokyo|Rome|Madrid|Sydney|Chicago|Munich|Milan|Barcelona|Hamburg|Shanghai|"
            "Mumbai|Toronto|Dubai|Zurich|Geneva|Istanbul|Los Angeles|San Francisco|France|Germany|Japan|Brazil",
    "language": "French German Spanish Italian Latin Greek Chinese Japanese Russian Arabic Dutch Polish".split(),
}
UNKNOWN_WORDS = {k: v if isinstance(v, list) else v.split("|") for k, v in UNKNOWN_WORDS.items()}
